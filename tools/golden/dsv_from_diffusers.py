"""The dsv family put together from diffusers' own PixArt/Latte parts: a second opinion.

Same tensor names as DsvTransformer (the state dict loads strictly); angles in float32 where
diffusers computes them so.
"""

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import (
    PixArtAlphaTextProjection, TimestepEmbedding, Timesteps, get_1d_sincos_pos_embed_from_grid,
    get_2d_sincos_pos_embed, get_2d_sincos_pos_embed_from_grid)
from diffusers.models.normalization import AdaLayerNormSingle
from torch import nn


def spatial_positions(dim, rows, cols, base, scale, dtype):
    """diffusers takes one base size for both axes; two need its grid written out."""
    if base[0] == base[1]:
        return get_2d_sincos_pos_embed(
            dim, (rows, cols), interpolation_scale=scale, base_size=base[0], output_type="pt")
    grid_h = torch.arange(rows, dtype=dtype) / (rows / base[0]) / scale
    grid_w = torch.arange(cols, dtype=dtype) / (cols / base[1]) / scale
    grid = torch.stack(torch.meshgrid(grid_w, grid_h, indexing="xy"))
    return get_2d_sincos_pos_embed_from_grid(dim, grid, output_type="pt")


class DsvFromDiffusers(nn.Module):
    def __init__(self, source, config):
        super().__init__()
        heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
        dim, patch = heads * head_dim, config["patch_size"][1:]
        self.config = config
        self.pos_embed = nn.Module()
        self.pos_embed.proj = nn.Conv2d(config["in_channels"], dim, patch, stride=patch)
        self.adaln_single = AdaLayerNormSingle(dim)
        # AdaLayerNormSingle is fixed at 256 frequencies; the cases use fewer.
        self.adaln_single.emb.time_proj = Timesteps(config["freq_dim"], True, 0)
        self.adaln_single.emb.timestep_embedder = TimestepEmbedding(config["freq_dim"], dim)
        self.caption_projection = PixArtAlphaTextProjection(config["text_dim"], dim)
        self.transformer_blocks = nn.ModuleList([
            BasicTransformerBlock(
                dim, heads, head_dim, cross_attention_dim=dim, attention_bias=False,
                activation_fn={"geglu": "geglu", "gelu_tanh": "gelu-approximate"}[config["ffn"]],
                norm_type="ada_norm_single", norm_elementwise_affine=True, norm_eps=config["eps"],
                ff_inner_dim=config["ffn_dim"])
            for _ in range(config["num_layers"])])
        self.norm_out = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.scale_shift_table = nn.Parameter(torch.zeros(2, dim))
        self.proj_out = nn.Linear(dim, patch[0] * patch[1] * config["out_channels"])
        self.load_state_dict(source.state_dict(), strict=True)

    def forward(self, latent, timestep, text):
        config = self.config
        b, channels, frames, height, width = latent.shape
        ph, pw = config["patch_size"][1:]
        rows, cols = height // ph, width // pw
        x = self.pos_embed.proj(latent.permute(0, 2, 1, 3, 4).reshape(-1, channels, height, width))
        x = x.flatten(2).transpose(1, 2)  # [B*T, rows*cols, C]
        dim = x.shape[2]
        space = spatial_positions(
            dim, rows, cols, config["pos_base_size"], config["pos_interpolation_scale"],
            x.dtype)
        time = get_1d_sincos_pos_embed_from_grid(dim, torch.arange(frames), output_type="pt")
        x = (x + space.to(x.dtype)).reshape(b, frames, rows * cols, dim)
        x = (x + time.to(x.dtype)[None, :, None]).reshape(b, -1, dim)

        modulation, embedded = self.adaln_single(timestep, batch_size=b, hidden_dtype=x.dtype)
        keep = text.abs().amax(dim=2) > 0
        keep[:, 0] = True
        bias = (1 - keep.to(x.dtype))[:, None] * -10000.0
        context = self.caption_projection(text)
        for block in self.transformer_blocks:
            x = block(x, None, context, bias, modulation)

        shift, scale = (self.scale_shift_table[None] + embedded[:, None]).chunk(2, dim=1)
        x = self.proj_out(self.norm_out(x) * (1 + scale) + shift)
        x = x.reshape(b * frames, rows, cols, ph, pw, -1)
        x = torch.einsum("nhwpqc->nchpwq", x).reshape(b, frames, -1, height, width)
        return x.transpose(1, 2)
