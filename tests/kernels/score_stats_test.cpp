#include "dsv/kernels/score_stats.h"

#include "kernels/support/scores.h"

namespace dsv::test {
namespace {

using namespace kernels;

constexpr double kNone = -std::numeric_limits<double>::infinity();

struct Selection {
  Tensor bits, block_start, row_groups;
  std::int64_t first_key = 0;
};
enum class Blocks { kNone, kSingleKeys, kRagged };

// Of G groups, over more keys than k has where first_key > 0.
Selection select_for(const ScoreCase& c, Blocks blocks, std::int64_t first_key = 0) {
  if (blocks == Blocks::kNone) return {};
  constexpr std::int64_t G = 5;
  const std::int64_t num_keys = first_key + c.Skv + 20;
  Selection out{.first_key = first_key};
  std::int64_t num_blocks = num_keys;
  if (blocks == Blocks::kRagged) {
    out.block_start = ragged_blocks(num_keys);
    num_blocks = out.block_start.dim(0) - 1;
  }
  out.bits = random_bits(c.B, c.H, G, num_blocks, 0.4);
  std::vector<std::int32_t> groups;
  for (std::int64_t n = 0; n < c.R; ++n) groups.push_back(static_cast<std::int32_t>(3 * n % G));
  out.row_groups = ints(groups);
  return out;
}

void run(const KernelTable& table, const ScoreData& d, const Selection& selection,
         const Tensor& stats, const Stream& stream) {
  table.score_stats({.q = d.q,
                     .k = d.k,
                     .q_lr = d.q_lr,
                     .k_lr = d.k_lr,
                     .rows = d.rows,
                     .row_groups = selection.row_groups,
                     .bits = selection.bits,
                     .block_start = selection.block_start,
                     .stats = stats,
                     .scale = d.scale,
                     .lr_scale = d.lr_scale,
                     .first_key = selection.first_key},
                    stream);
}

Tensor reference(const ScoreData& data, const Selection& selection) {
  const Tensor stats =
      empty({data.q.dim(0), data.q.dim(2), data.rows.dim(0), kNumScoreColumns}, DType::kF64);
  run(reference_kernels(), data.to_f64(), selection, stats, {});
  return stats;
}

// Every column in units of what may be expected of it.
void check_stats(const ScoreData& data, const Tensor& got, const Tensor& want) {
  const ScoreData f64 = data.to_f64();
  const double s_eps = score_eps(data.q.dtype(), data.q.dim(3));
  const double t_eps = score_eps(data.q.dtype(), data.q_lr ? data.q_lr.dim(3) : 0);
  double worst[kNumScoreColumns] = {};
  for (std::int64_t i = 0; i < want.num_elements() / kNumScoreColumns; ++i) {
    const std::int64_t R = want.dim(2), H = want.dim(1);
    if (data.rows.i32()[i % R] < 0) {
      for (int c = 0; c < kNumScoreColumns; ++c) {
        CHECK(got.f64()[i * kNumScoreColumns + c] == (c == kMax ? kNone : 0));
      }
      continue;
    }
    const ScoreRow row = score_row(f64, i / R / H, i / R % H, i % R);
    double most[kNumScoreColumns] = {}, max_logit = 0;
    for (std::size_t j = 0; j < row.s.size(); ++j) {
      const double s = std::fabs(row.s[j]), t = std::fabs(row.t[j]);
      const double s_error = s_eps * row.s_size[j], t_error = t_eps * row.t_size[j];
      most[kSumS] += s_error;
      most[kSumT] += t_error;
      most[kSumSS] += 2 * s * s_error;
      most[kSumTT] += 2 * t * t_error;
      most[kSumST] += s * t_error + t * s_error;
      most[kMax] = std::max(most[kMax], s_error);
      max_logit = std::max(max_logit, s);
    }
    const double* const w = want.f64() + i * kNumScoreColumns;
    const double* const g = got.f64() + i * kNumScoreColumns;
    most[kSumExp] = s_eps * (1 + max_logit) * w[kSumExp];
    most[kSumExpSelected] = s_eps * (1 + max_logit) * (w[kSumExpSelected] + 0x1p-80);
    for (int c = 0; c < kNumScoreColumns; ++c) {
      const double distance = detail::distance(g[c], w[c]);
      worst[c] = std::max(worst[c], detail::relative(distance, most[c]));
    }
  }
  for (int c = 0; c < kNumScoreColumns; ++c) {
    CAPTURE(c);
    CHECK(worst[c] <= (c <= kMax ? 4 : 8));
  }
}

void check_case(const ScoreCase& c, const ScoreData& data, const Selection& selection) {
  CAPTURE(c.B, c.Sq, c.Skv, c.H, c.D, c.r, c.R, c.qk_scale, static_cast<int>(c.layout));
  const Tensor want = reference(data, selection);
  for_each_score_backend(data.q.dtype(), [&] {
    const auto got = same_for_any_threads([&](const Stream& stream) {
      std::vector<Output> out;
      out.emplace_back(want.shape(), DType::kF64);
      run(tested_kernels(), data, selection, out[0], stream);
      return out;
    });
    check_stats(data, got[0], want);
  });
}
void check_case(const ScoreCase& c, Blocks blocks = Blocks::kNone, std::int64_t first_key = 0,
                DType dtype = DType::kF32) {
  check_case(c, ScoreData(c, dtype), select_for(c, blocks, first_key));
}

TEST_CASE("score_stats: two keys by hand", "[score_stats]") {
  ScoreData d({1, 2, 2, 1, 1, 1, 1});
  d.rows = ints({1});
  d.scale = 0.5f, d.lr_scale = 2;
  d.q.f32()[1] = 2, d.k.f32()[0] = 3, d.k.f32()[1] = 5;            // s = 3, 5
  d.q_lr.f32()[1] = -1, d.k_lr.f32()[0] = 1, d.k_lr.f32()[1] = 2;  // t = -2, -4
  Selection only_first{.bits = random_bits(1, 1, 2, 2, 0), .row_groups = ints({1})};
  only_first.bits.u32()[1] = 1;
  const std::vector<double> got = values(reference(d, only_first)),
                            want{8, -6, 34, 20, -26, 5, 1 + std::exp(-2), std::exp(-2)};
  for (std::size_t c = 0; c < want.size(); ++c) CHECK(std::fabs(got[c] - want[c]) <= 1e-14);
}

TEST_CASE("score_stats: shapes that fit no tile, views of any stride", "[score_stats]") {
  for (const ScoreCase& c : std::vector<ScoreCase>{
           {1, 1, 1, 1, 1, 1, 1},
           {2, 7, 1, 3, 5, 2, 3},
           {1, 9, 130, 2, 16, 16, 4, ScoreLayout::kPadded},
           {2, 150, 150, 2, 24, 8, 33, ScoreLayout::kFused},
           {1, 64, 193, 1, 72, 0, 17, ScoreLayout::kPadded},
           {1, 400, 70, 1, 8, 17, 197},
           {1, 5, 1100, 1, 12, 3, 2},
           {1, 6, 100, 1, 250, 40, 6, ScoreLayout::kPadded},
           {1, 6, 65, 1, 256, 256, 3},
       }) {
    check_case(c);
  }
}

TEST_CASE("score_stats: no rows, no keys, no heads", "[score_stats]") {
  check_case({1, 4, 9, 2, 8, 4, 0});
  check_case({1, 4, 0, 2, 8, 4, 3}, Blocks::kRagged);
  check_case({0, 4, 9, 2, 8, 4, 3});
}

TEST_CASE("score_stats: scores of any scale", "[score_stats]") {
  for (const double scale : {1.0, 8.0, 32.0, 128.0}) {
    check_case({1, 70, 300, 1, 64, 16, 20, ScoreLayout::kContiguous, scale}, Blocks::kSingleKeys);
    check_case({1, 30, 200, 1, 32, 16, 20, ScoreLayout::kContiguous, 1, scale});
  }
}

TEST_CASE("score_stats: the mass of a selection", "[score_stats]") {
  for (const std::int64_t first_key : {0, 1, 77}) {
    CAPTURE(first_key);
    check_case({2, 40, 210, 2, 16, 4, 21}, Blocks::kSingleKeys, first_key);
    check_case({2, 40, 210, 2, 16, 0, 21}, Blocks::kRagged, first_key);
    check_case({1, 40, 1, 2, 16, 0, 7}, Blocks::kRagged, first_key);
  }
}

void check_all_or_nothing(DType dtype) {
  const ScoreCase c{1, 20, 150, 2, 16, 4, 9};
  const ScoreData data(c, dtype);
  for (const std::uint32_t word : {0u, ~0u}) {
    Selection selection = select_for(c, Blocks::kRagged);
    std::fill_n(selection.bits.u32(), selection.bits.num_elements(), word);
    for_each_score_backend(dtype, [&] {
      const Output stats({c.B, c.H, c.R, kNumScoreColumns}, DType::kF64);
      run(tested_kernels(), data, selection, stats, cpu_stream(2));
      const std::vector<double> x = values(stats);
      for (std::size_t i = 0; i < x.size(); i += kNumScoreColumns) {
        CHECK(x[i + kSumExpSelected] == (word == 0 ? 0 : x[i + kSumExp]));
      }
    });
  }
}

TEST_CASE("score_stats: a selection of everything or of nothing is exact", "[score_stats]") {
  check_all_or_nothing(DType::kF32);
}

// Rows of which some are absent; what their groups are does not matter.
void check_absent(DType dtype) {
  const ScoreCase c{2, 40, 90, 2, 16, 4, 35};
  ScoreData data(c, dtype);
  Selection selection = select_for(c, Blocks::kRagged);
  for (const std::int64_t n : {0, 3, 15, 16, 34}) {
    data.rows.i32()[n] = -1;
    selection.row_groups.i32()[n] = -1;
  }
  check_case(c, data, selection);
}

TEST_CASE("score_stats: absent rows have the statistics of no keys", "[score_stats]") {
  check_absent(DType::kF32);
}

// All logits near `logit`: a key of zeros that fills up a tile would be the largest, or the rest.
void check_fillers(DType dtype) {
  for (const double logit : {-200.0, 200.0}) {
    for (const std::int64_t Skv : {1, 5, 63, 65, 191, 193}) {
      const ScoreCase c{1, 20, Skv, 1, 16, 4, 5};
      ScoreData data(c, dtype);
      data.scale = 1;
      for (const Tensor& t : {data.q, data.k}) {
        const double sign = t.raw() == data.k.raw() && logit < 0 ? -1 : 1;
        for_each_element(t, [&](std::int64_t at, auto, auto) {
          write_element(t, at,
                        sign * std::sqrt(std::fabs(logit) / 16) + 0.05 * read_element(t, at));
        });
      }
      check_case(c, data, select_for(c, Blocks::kSingleKeys));
    }
  }
}

TEST_CASE("score_stats: keys that only fill up a tile do not leak in", "[score_stats]") {
  check_fillers(DType::kF32);
}

TEST_CASE("score_stats: a row does not depend on the rows beside it", "[score_stats]") {
  const ScoreCase c{1, 300, 500, 1, 24, 8, 250};
  const ScoreData data(c);
  for_each_backend([&] {
    const Output all({1, 1, 250, kNumScoreColumns}, DType::kF64);
    run(tested_kernels(), data, {}, all, cpu_stream(2));
    for (const std::int64_t n : {0, 31, 191, 192, 249}) {
      ScoreData one = data;
      one.rows = data.rows.slice(0, n, n + 1);
      const Output stats({1, 1, 1, kNumScoreColumns}, DType::kF64);
      run(tested_kernels(), one, {}, stats, cpu_stream());
      CHECK(max_distance(stats, all.tensor().slice(2, n, n + 1)) <=
            1e-6 * max_abs(all.tensor().slice(2, n, n + 1)));
    }
  });
}

TEST_CASE("score_stats: statistics of two ranges of keys merge to those of both", "[score_stats]") {
  const ScoreCase c{1, 40, 230, 2, 16, 4, 11, ScoreLayout::kContiguous, 3};
  const ScoreData data(c);
  const Selection selection = select_for(c, Blocks::kRagged, 7);
  const Tensor want = reference(data, selection);
  for (const std::int64_t cut : {0, 1, 64, 100, 230}) {
    CAPTURE(cut);
    const auto merged_by = [&](const KernelTable& table, DType dtype) {
      std::vector<Tensor> parts;
      for (const auto& [begin, end] : {std::pair{std::int64_t{0}, cut}, {cut, c.Skv}}) {
        ScoreData part = dtype == DType::kF64 ? data.to_f64() : data;
        part.k = part.k.slice(1, begin, end);
        part.k_lr = part.k_lr.slice(1, begin, end);
        Selection of_part = selection;
        of_part.first_key += begin;
        parts.push_back(empty(want.shape(), DType::kF64));
        run(table, part, of_part, parts.back(), {});
      }
      for (std::int64_t i = 0; i < want.num_elements(); i += kNumScoreColumns) {
        merge_score_stats(parts[0].f64() + i, parts[1].f64() + i);
      }
      return parts[0];
    };
    CHECK(row_error(merged_by(reference_kernels(), DType::kF64), want) <= 1e-13);
    for_each_backend([&] { check_stats(data, merged_by(tested_kernels(), DType::kF32), want); });
  }
}

TEST_CASE("score_stats: what the cpu does not do is refused", "[score_stats]") {
  const Tensor x = full({1, 2, 1, 4}, 1, DType::kBF16), stats = empty({1, 1, 1, 8}, DType::kF64);
  const Tensor rows = ints({0});
  check_refuses_bf16([&] {
    tested_kernels().score_stats({.q = x, .k = x, .rows = rows, .stats = stats}, cpu_stream());
  });
  const Tensor wide = full({1, 2, 1, 257}, 1);
  CHECK_THROWS_WITH(tested_kernels().score_stats(
                        {.q = wide, .k = wide, .rows = rows, .stats = stats}, cpu_stream()),
                    Contains("dims"));
}

// --- bf16, which only the GPU computes in

TEST_CASE("score_stats: bf16 of any dim and layout on the GPU", "[score_stats][gpu]") {
  DSV_NEEDS_GPU();
  for (const std::int64_t D : {1, 17, 64, 72, 96, 128, 250, 256}) {
    for (const ScoreLayout layout :
         {ScoreLayout::kContiguous, ScoreLayout::kFused, ScoreLayout::kPadded}) {
      check_case({2, 150, 150, 2, D, 16, 70, layout}, Blocks::kNone, 0, DType::kBF16);
    }
  }
  for (const std::int64_t r : {0, 1, 8, 24, 64, 256}) {
    check_case({1, 50, 333, 1, 128, r, 40}, Blocks::kSingleKeys, 0, DType::kBF16);
    check_case({1, 50, 70, 1, 256, r, 140}, Blocks::kRagged, 5, DType::kBF16);
  }
  check_case({1, 3, 4500, 1, 64, 16, 2}, Blocks::kSingleKeys, 3, DType::kBF16);
  check_case({1, 4, 9, 2, 8, 4, 0}, Blocks::kNone, 0, DType::kBF16);
  check_case({1, 4, 0, 2, 8, 4, 3}, Blocks::kRagged, 0, DType::kBF16);
}

TEST_CASE("score_stats: bf16 scores of any scale on the GPU", "[score_stats][gpu]") {
  DSV_NEEDS_GPU();
  for (const double scale : {1.0, 8.0, 32.0, 128.0}) {
    const ScoreCase c{1, 70, 300, 1, 128, 16, 20, ScoreLayout::kContiguous, scale};
    check_case(c, Blocks::kRagged, 0, DType::kBF16);
  }
}

TEST_CASE("score_stats: bf16 selections, absent rows, and fillers on the GPU",
          "[score_stats][gpu]") {
  DSV_NEEDS_GPU();
  check_all_or_nothing(DType::kBF16);
  check_absent(DType::kBF16);
  check_fillers(DType::kBF16);
}

}  // namespace
}  // namespace dsv::test
