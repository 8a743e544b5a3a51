#include "measurement.h"

#include <algorithm>

#include "dsv/base/check_math.h"
#include "dsv/kernels/score_stats.h"
#include "dsv/sparsity/mass_profile.h"
#include "dsv/tensor/transfer.h"

namespace dsv::sparsity {
namespace {

constexpr std::int64_t kProfileStride = 16;  // rows of a group that a profile looks at

template <typename T>
std::vector<T> to_host(const autograd::Context& ctx, const Tensor& device) {
  std::vector<T> host(static_cast<std::size_t>(device.num_elements()));
  DSV_CHECK(size_of(device.dtype()) == static_cast<std::int64_t>(sizeof(T)),
            "[sparsity] {} read as {} bytes each", device.dtype(), sizeof(T));
  transfer(device, Tensor(host.data(), device.dtype(), device.shape()), ctx.stream);
  return host;
}

void add_stats(const std::vector<double>& stats, std::int64_t num_heads, std::int64_t num_rows,
               double num_keys, bool with_selection, BlockMeasure* measure) {
  using namespace kernels;
  const auto rows = static_cast<std::int64_t>(stats.size()) / kNumScoreColumns;
  for (std::int64_t i = 0; i < rows; ++i) {
    const double* s = stats.data() + i * kNumScoreColumns;
    BlockMeasure::Head& head =
        measure->heads[static_cast<std::size_t>(i / num_rows % num_heads)];
    head.cov += s[kSumST] - s[kSumS] * s[kSumT] / num_keys;
    head.var += s[kSumTT] - s[kSumT] * s[kSumT] / num_keys;
    if (!with_selection) continue;
    head.coverage_sum += s[kSumExpSelected] / s[kSumExp];
    head.coverage_count += 1;
  }
}

void add_densities(const std::vector<std::int32_t>& num_keys, const SequenceLayout& layout,
                   std::int64_t num_heads, BlockMeasure* measure) {
  const std::int64_t G = layout.num_groups();
  const auto S = static_cast<double>(layout.num_tokens());
  for (std::size_t i = 0; i < num_keys.size(); ++i) {
    const auto g = i % static_cast<std::size_t>(G);
    const auto head = i / static_cast<std::size_t>(G) % static_cast<std::size_t>(num_heads);
    const double queries = layout.groups[g + 1] - layout.groups[g];
    measure->heads[head].keys_sum += queries * num_keys[i];
    // A group's queries of all pairs, so that the quotient is the share of valid pairs.
    measure->heads[head].keys_count += queries * S;
  }
}

// Block masses summed to units, and the keys of each unit.
struct Units {
  std::int64_t blocks_each = 1;
  std::vector<std::int32_t> keys;
};
Units units_of(const SequenceLayout& layout) {
  Units out;
  const auto count = static_cast<std::int64_t>(layout.units.size()) - 1;
  out.blocks_each = div_exact(layout.num_blocks(), count);
  for (std::size_t n = 0; n + 1 < layout.units.size(); ++n) {
    out.keys.push_back(layout.units[n + 1] - layout.units[n]);
  }
  return out;
}

// Recall and covered mass of a selection beside those of the oracle that takes as many units.
void add_recall(const std::vector<float>& mass, const Units& units, const std::uint32_t* bits,
                BlockMeasure* measure) {
  const auto selected = [&](std::int64_t unit) {
    const std::int64_t block = unit * units.blocks_each;
    for (std::int64_t b = block; b < block + units.blocks_each; ++b) {
      if ((bits[b / 32] >> (b % 32) & 1) != 0) return true;
    }
    return false;
  };
  std::int64_t count = 0;
  double covered = 0;
  for (std::int64_t n = 0; n < static_cast<std::int64_t>(mass.size()); ++n) {
    if (!selected(n)) continue;
    ++count;
    covered += static_cast<double>(mass[static_cast<std::size_t>(n)]);
  }
  if (count == 0) return;
  const OracleSelection oracle = oracle_by_count(mass, units.keys, count);
  std::int64_t hits = 0;
  for (const std::int32_t n : oracle.units) hits += selected(n) ? 1 : 0;
  measure->recall_sum += static_cast<double>(hits) / static_cast<double>(count);
  measure->oracle_sum += covered / std::max(oracle.mass, 1e-30);
  measure->recall_count += 1;
}

void add_profile(const autograd::Context& ctx, const Measurement& m, const SparsityConfig& config,
                 std::int64_t num_heads, BlockMeasure* measure) {
  const SequenceLayout& layout = *m.layout;
  const auto mass = to_host<float>(ctx, m.block_mass);
  const auto counts = to_host<std::int32_t>(ctx, m.bin_count);
  const auto masses = to_host<float>(ctx, m.bin_mass);
  const auto bits =
      m.profile_bits.defined() ? to_host<std::uint32_t>(ctx, m.profile_bits) : std::vector<std::uint32_t>();
  const auto& rows = m.rows->host_profile_rows;
  const auto R = static_cast<std::int64_t>(rows.size());
  const auto groups = static_cast<std::int64_t>(m.rows->host_profile_groups.size());
  const std::int64_t S = layout.num_tokens(), N = layout.num_blocks();
  const auto heads_of_all = static_cast<std::int64_t>(counts.size()) /
                            std::max<std::int64_t>(1, R * kernels::kNumProfileBins);
  const Units units = units_of(layout);
  std::vector<float> unit_mass(units.keys.size());
  for (std::int64_t bh = 0; bh < heads_of_all; ++bh) {
    BlockMeasure::Head& head = measure->heads[static_cast<std::size_t>(bh % num_heads)];
    for (std::int64_t i = 0; i < R; ++i) {
      if (rows[static_cast<std::size_t>(i)] < 0) continue;
      const auto at = static_cast<std::size_t>((bh * R + i) * kernels::kNumProfileBins);
      head.token_sum += token_sparsity({counts.data() + at, kernels::kNumProfileBins},
                                       {masses.data() + at, kernels::kNumProfileBins}, S,
                                       config.mass);
      head.token_count += 1;
    }
    for (std::int64_t g = 0; g < groups; ++g) {
      const float* of_group = mass.data() + (bh * groups + g) * N;
      for (std::size_t n = 0; n < unit_mass.size(); ++n) {
        unit_mass[n] = 0;
        for (std::int64_t b = 0; b < units.blocks_each; ++b) {
          unit_mass[n] += of_group[static_cast<std::int64_t>(n) * units.blocks_each + b];
        }
      }
      const OracleSelection fewest = oracle_by_mass(unit_mass, units.keys, config.mass);
      head.exec_sum += 1 - static_cast<double>(fewest.num_keys) / static_cast<double>(S);
      head.exec_count += 1;
      if (!bits.empty()) {
        add_recall(unit_mass, units, bits.data() + (bh * groups + g) * layout.num_words(), measure);
      }
    }
  }
}

template <typename Fn>
void for_each_number(std::vector<BlockMeasure>& measures, const Fn& fn) {
  for (BlockMeasure& m : measures) {
    for (double* v : {&m.loss_sum, &m.loss_count, &m.recall_sum, &m.oracle_sum, &m.recall_count}) {
      fn(*v);
    }
    for (BlockMeasure::Head& h : m.heads) {
      for (double* v : {&h.cov, &h.var, &h.coverage_sum, &h.coverage_count, &h.keys_sum,
                        &h.keys_count, &h.token_sum, &h.token_count, &h.exec_sum, &h.exec_count}) {
        fn(*v);
      }
    }
  }
}

}  // namespace

StepRows make_step_rows(const autograd::Context& ctx, const SequenceLayout& layout,
                        std::int64_t every, std::int64_t num_groups, bool profile,
                        std::int64_t step) {
  StepRows out;
  // An odd stride visits all offsets, neighbours far apart in time.
  const auto offset = [step](std::int64_t n) { return step * 29 % n; };
  std::vector<std::int32_t> rows, row_groups;
  std::int32_t group = 0;
  const std::int64_t S = layout.num_tokens();
  for (std::int64_t i = offset(std::min(every, S)); i < S; i += every) {
    while (layout.groups[static_cast<std::size_t>(group) + 1] <= i) ++group;
    rows.push_back(static_cast<std::int32_t>(i));
    row_groups.push_back(group);
  }
  out.rows = upload(ctx, rows);
  out.row_groups = upload(ctx, row_groups);
  if (!profile) return out;

  const std::int64_t G = layout.num_groups(), count = std::min(num_groups, G);
  std::int64_t largest = 1;
  for (std::size_t g = 0; g + 1 < layout.groups.size(); ++g) {
    largest = std::max<std::int64_t>(largest, layout.groups[g + 1] - layout.groups[g]);
  }
  const std::int64_t rows_each = ceil_div(largest, kProfileStride);
  for (std::int64_t n = 0; n < count; ++n) {
    const std::int64_t g = (n * G / count + step) % G;
    const std::int32_t first = layout.groups[static_cast<std::size_t>(g)],
                       end = layout.groups[static_cast<std::size_t>(g) + 1];
    out.host_profile_groups.push_back(static_cast<std::int32_t>(g));
    for (std::int64_t i = 0; i < rows_each; ++i) {
      const std::int64_t row = first + i * kProfileStride + offset(kProfileStride);
      out.host_profile_rows.push_back(row < end ? static_cast<std::int32_t>(row) : -1);
    }
    // A small group has at least its first row looked at.
    auto& own = out.host_profile_rows;
    const auto begin = own.end() - rows_each;
    if (std::all_of(begin, own.end(), [](std::int32_t r) { return r < 0; })) *begin = first;
  }
  out.profile_rows = upload(ctx, out.host_profile_rows);
  out.profile_groups = upload(ctx, out.host_profile_groups);
  return out;
}

void add_to(const autograd::Context& ctx, const Measurement& m, const SparsityConfig& config,
            BlockMeasure* measure) {
  const auto H = static_cast<std::int64_t>(measure->heads.size());
  if (m.loss.defined()) {
    for (const float loss : to_host<float>(ctx, m.loss)) {
      measure->loss_sum += static_cast<double>(loss);
    }
    measure->loss_count += static_cast<double>(m.loss.num_elements());
  }
  if (m.stats.defined()) {
    add_stats(to_host<double>(ctx, m.stats), H, m.stats.dim(2),
              static_cast<double>(m.layout->num_tokens()), m.num_keys.defined(), measure);
  }
  if (m.num_keys.defined()) {
    add_densities(to_host<std::int32_t>(ctx, m.num_keys), *m.layout, H, measure);
  }
  if (m.block_mass.defined()) add_profile(ctx, m, config, H, measure);
}

std::vector<double> flatten(const std::vector<BlockMeasure>& measures) {
  std::vector<double> out;
  for_each_number(const_cast<std::vector<BlockMeasure>&>(measures),
                  [&](double& v) { out.push_back(v); });
  return out;
}

void unflatten(const std::vector<double>& values, std::vector<BlockMeasure>* measures) {
  std::size_t i = 0;
  for_each_number(*measures, [&](double& v) { v = values.at(i++); });
}

}  // namespace dsv::sparsity
