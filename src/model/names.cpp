#include "dsv/model/names.h"

namespace dsv::model {

Names names_of(const DitConfig& config) {
  if (config.family == Family::kWan) {
    return {.patch = "patch_embedding",
            .time_1 = "condition_embedder.time_embedder.linear_1",
            .time_2 = "condition_embedder.time_embedder.linear_2",
            .time_proj = "condition_embedder.time_proj",
            .text_1 = "condition_embedder.text_embedder.linear_1",
            .text_2 = "condition_embedder.text_embedder.linear_2",
            .head_table = "scale_shift_table",
            .head = "proj_out",
            .block = "blocks.",
            .table = "scale_shift_table",
            .self = "attn1",
            .cross = "attn2",
            .self_norm = "",
            .cross_norm = config.cross_attn_norm ? "norm2" : "",
            .ffn_norm = "",
            .ffn_in = "ffn.net.0.proj",
            .ffn_out = "ffn.net.2"};
  }
  return {.patch = "pos_embed.proj",
          .time_1 = "adaln_single.emb.timestep_embedder.linear_1",
          .time_2 = "adaln_single.emb.timestep_embedder.linear_2",
          .time_proj = "adaln_single.linear",
          .text_1 = "caption_projection.linear_1",
          .text_2 = "caption_projection.linear_2",
          .head_table = "scale_shift_table",
          .head = "proj_out",
          .block = "transformer_blocks.",
          .table = "scale_shift_table",
          .self = "attn1",
          .cross = "attn2",
          .self_norm = "norm1",
          .cross_norm = "",
          .ffn_norm = "norm2",
          .ffn_in = "ff.net.0.proj",
          .ffn_out = "ff.net.2"};
}

}  // namespace dsv::model
