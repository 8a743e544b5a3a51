#include <array>

#include "dsv/base/error.h"
#include "dsv/sparsity/block_state.h"

namespace dsv::sparsity {
namespace {

// Doubles print in the form that reads back to the same bits, so a resumed run decides alike.
constexpr std::array kHeadFields{&HeadState::token_sparsity, &HeadState::exec_sparsity,
                                 &HeadState::slope,          &HeadState::coverage,
                                 &HeadState::density,        &HeadState::boost};

[[noreturn]] void refuse(const std::string& where, const std::string& reason) {
  throw_error(ExitCode::kCorruptInput, "{}: sparsity state: {}", where, reason);
}

Json head_to_json(const HeadState& head) {
  Json out = Json::array();
  for (const auto field : kHeadFields) out.push_back(head.*field);
  return out;
}

HeadState head_from_json(const Json& json, const std::string& where) {
  const Json::Array& values = json.as_array();
  if (values.size() != kHeadFields.size()) {
    refuse(where, format("expected {} numbers a head, got {}", kHeadFields.size(), values.size()));
  }
  HeadState head;
  for (std::size_t i = 0; i < kHeadFields.size(); ++i) head.*kHeadFields[i] = values[i].as_double();
  return head;
}

}  // namespace

Json to_json(const SparsityState& state) {
  Json blocks = Json::array();
  for (const BlockState& block : state.blocks) {
    Json heads = Json::array();
    for (const HeadState& head : block.heads) heads.push_back(head_to_json(head));
    Json out = Json::object();
    out.set("heads", std::move(heads));
    out.set("predictor_loss", block.predictor_loss);
    out.set("recall", block.recall);
    out.set("oracle_coverage", block.oracle_coverage);
    out.set("low_evaluations", block.low_evaluations);
    out.set("good_evaluations", block.good_evaluations);
    out.set("sparse", block.sparse);
    blocks.push_back(std::move(out));
  }
  Json out = Json::object();
  out.set("stage", state.stage == Stage::kSparse ? "sparse" : "dense");
  out.set("gave_up", state.gave_up);
  out.set("loss_ema", state.loss_ema);
  out.set("switch_step", state.switch_step);
  out.set("blocks", std::move(blocks));
  return out;
}

SparsityState sparsity_state_from_json(const Json& json, std::int64_t num_blocks,
                                       std::int64_t num_heads, const std::string& where) {
  SparsityState state;
  const std::string& stage = json.at("stage").as_string();
  if (stage != "dense" && stage != "sparse") refuse(where, format("no stage '{}'", stage));
  state.stage = stage == "sparse" ? Stage::kSparse : Stage::kDense;
  state.gave_up = json.at("gave_up").as_bool();
  state.loss_ema = json.at("loss_ema").as_double();
  state.switch_step = json.at("switch_step").as_int();
  for (const Json& in : json.at("blocks").as_array()) {
    BlockState block;
    for (const Json& head : in.at("heads").as_array()) {
      block.heads.push_back(head_from_json(head, where));
    }
    if (static_cast<std::int64_t>(block.heads.size()) != num_heads) {
      refuse(where, format("expected {} heads, got {}", num_heads, block.heads.size()));
    }
    block.predictor_loss = in.at("predictor_loss").as_double();
    block.recall = in.at("recall").as_double();
    block.oracle_coverage = in.at("oracle_coverage").as_double();
    block.low_evaluations = in.at("low_evaluations").as_int();
    block.good_evaluations = in.at("good_evaluations").as_int();
    block.sparse = in.at("sparse").as_bool();
    state.blocks.push_back(std::move(block));
  }
  if (static_cast<std::int64_t>(state.blocks.size()) != num_blocks) {
    refuse(where, format("expected {} blocks, got {}", num_blocks, state.blocks.size()));
  }
  return state;
}

}  // namespace dsv::sparsity
