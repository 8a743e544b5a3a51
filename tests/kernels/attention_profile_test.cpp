// Where the mass of sampled rows lies: kernels/score_stats.
#include "kernels/support/scores.h"

namespace dsv::test {
namespace {

using namespace kernels;

enum class Blocks { kSingleKeys, kRagged };

struct Results {
  Tensor stats, block_mass, bin_mass, bin_count;
};

Tensor stats_of(const KernelTable& table, const ScoreData& d, const Stream& stream) {
  const Tensor stats =
      empty({d.q.dim(0), d.q.dim(2), d.rows.dim(0), kNumScoreColumns}, DType::kF64);
  table.score_stats({.q = d.q, .k = d.k, .rows = d.rows, .stats = stats, .scale = d.scale}, stream);
  return stats;
}

void run(const KernelTable& table, const ScoreData& d, const Tensor& block_start,
         const Tensor& stats, const Tensor& block_mass, const Tensor& bin_mass,
         const Tensor& bin_count, const Stream& stream) {
  table.attention_profile({.q = d.q,
                           .k = d.k,
                           .rows = d.rows,
                           .stats = stats,
                           .block_start = block_start,
                           .block_mass = block_mass,
                           .bin_count = bin_count,
                           .bin_mass = bin_mass,
                           .scale = d.scale},
                          stream);
}

// Of a row, the keys and the mass that a bin holds at least and at most: those whose score is near
// the border of two bins may fall in either.
struct BinRange {
  double least_count = 0, most_count = 0, least_mass = 0, most_mass = 0;
};
std::vector<BinRange> bins_of(const ScoreData& f64, std::int64_t b, std::int64_t h, std::int64_t n,
                              double max, double sum, double eps) {
  std::vector<BinRange> bins(kNumProfileBins);
  const ScoreRow row = score_row(f64, b, h, n);
  const double largest = *std::max_element(row.s_size.begin(), row.s_size.end());
  for (std::size_t j = 0; j < row.s.size(); ++j) {
    const double error = 4 * eps * (row.s_size[j] + largest), below = max - row.s[j];
    const double p = std::exp(-below) / sum, p_error = p * (error + 8 * eps * (1 + below));
    const auto bin = [](double x) {
      return static_cast<std::size_t>(std::clamp(x / kProfileBinWidth, 0.0, kNumProfileBins - 1.0));
    };
    const std::size_t first = bin(below - error), last = bin(below + error);
    if (first == last) bins[first].least_count += 1, bins[first].least_mass += p - p_error;
    for (std::size_t i = first; i <= last; ++i) {
      bins[i].most_count += 1, bins[i].most_mass += p + p_error;
    }
  }
  return bins;
}

void check_bins(const ScoreData& data, const Tensor& stats, const Tensor& bin_count,
                const Tensor& bin_mass) {
  const ScoreData f64 = data.to_f64();
  const std::int64_t R = data.rows.dim(0), H = data.q.dim(2), Skv = data.k.dim(1);
  int wrong = 0;
  for (std::int64_t i = 0; i < stats.num_elements() / kNumScoreColumns; ++i) {
    const std::int32_t* const counts = bin_count.i32() + i * kNumProfileBins;
    const float* const masses = bin_mass.f32() + i * kNumProfileBins;
    std::int64_t count = 0;
    double mass = 0;
    for (int bin = 0; bin < kNumProfileBins; ++bin) {
      count += counts[bin];
      mass += static_cast<double>(masses[bin]);
    }
    const bool present = data.rows.i32()[i % R] >= 0;
    CHECK(count == (present ? Skv : 0));
    if (!present || Skv == 0) {
      CHECK(mass == 0);
      continue;
    }
    const double* const row = stats.f64() + i * kNumScoreColumns;
    const double eps = score_eps(data.q.dtype(), data.q.dim(3));
    CHECK(std::fabs(mass - 1) <= 8 * eps * (2 + std::fabs(row[kMax])));
    const std::vector<BinRange> bins =
        bins_of(f64, i / R / H, i / R % H, i % R, row[kMax], row[kSumExp], eps);
    for (std::size_t bin = 0; bin < kNumProfileBins; ++bin) {
      // On a GPU each p is rounded to 2^-19 of the largest that its bin may hold.
      const double rounding =
          on_cuda()
              ? 0x1p-20 * bins[bin].most_count / row[kSumExp] *
                    std::exp(-static_cast<double>(kProfileBinWidth) * static_cast<double>(bin))
              : 0;
      const double m = static_cast<double>(masses[bin]), slack = kEps * m + rounding + 0x1p-100;
      wrong += counts[bin] < bins[bin].least_count || counts[bin] > bins[bin].most_count;
      wrong += m < bins[bin].least_mass - slack || m > bins[bin].most_mass + slack;
    }
  }
  CHECK(wrong == 0);
}

void check_block_masses(const ScoreData& data, const Tensor& stats, const Tensor& got,
                        const Tensor& want) {
  const std::int64_t Gs = want.dim(2), N = want.dim(3);
  const std::int64_t group_rows = data.rows.dim(0) / std::max<std::int64_t>(1, Gs);
  double largest = 0;
  for (std::int64_t i = 0; i < stats.num_elements() / kNumScoreColumns; ++i) {
    if (data.rows.i32()[i % data.rows.dim(0)] < 0) continue;
    largest = std::max(largest, std::fabs(stats.f64()[i * kNumScoreColumns + kMax]));
  }
  const double eps = 8 * score_eps(data.q.dtype(), data.q.dim(3)) * (2 + largest);
  const std::vector<double> g = values(got), w = values(want);
  for (std::size_t row = 0; row < g.size(); row += static_cast<std::size_t>(N)) {
    const auto group = static_cast<std::int64_t>(row) / N % Gs;
    bool present = false;
    for (std::int64_t n = group * group_rows; n < (group + 1) * group_rows; ++n) {
      present |= data.rows.i32()[n] >= 0;
    }
    double sum = 0, worst = 0;
    for (std::size_t e = row; e < row + static_cast<std::size_t>(N); ++e) {
      sum += g[e];
      worst = std::max(worst, detail::relative(detail::distance(g[e], w[e]), w[e] + 0x1p-80));
    }
    CHECK(worst <= eps);
    CHECK(std::fabs(sum - (present && data.k.dim(1) > 0 ? 1 : 0)) <= eps);
  }
}

void check_data(const ScoreData& data, std::int64_t Gs, Blocks blocks) {
  const std::int64_t B = data.q.dim(0), H = data.q.dim(2), R = data.rows.dim(0);
  const std::int64_t Skv = data.k.dim(1);
  const Tensor block_start = blocks == Blocks::kRagged ? ragged_blocks(Skv) : Tensor{};
  const std::int64_t N = block_start ? block_start.dim(0) - 1 : Skv;
  const Shape block_shape{B, H, Gs, N}, bin_shape{B, H, R, kNumProfileBins};
  const ScoreData f64 = data.to_f64();
  const Tensor stats = stats_of(reference_kernels(), f64, {});
  const Tensor block_mass = empty(block_shape, DType::kF64), bin_mass = empty(bin_shape);
  const Tensor bin_count = empty(bin_shape, DType::kI32);
  run(reference_kernels(), f64, block_start, stats, block_mass, bin_mass, bin_count, {});
  check_bins(data, stats, bin_count, bin_mass);
  for_each_score_backend(data.q.dtype(), [&] {
    const Tensor own_stats = stats_of(tested_kernels(), data, cpu_stream());
    const auto got = same_for_any_threads([&](const Stream& stream) {
      std::vector<Output> out;
      out.emplace_back(block_shape);
      out.emplace_back(bin_shape);
      out.emplace_back(bin_shape, DType::kI32);
      run(tested_kernels(), data, block_start, own_stats, out[0], out[1], out[2], stream);
      return out;
    });
    check_bins(data, stats, got[2], got[1]);
    check_block_masses(data, stats, got[0], block_mass);
  });
}

void check_case(const ScoreCase& c, std::int64_t Gs, Blocks blocks, DType dtype = DType::kF32) {
  CAPTURE(c.B, c.Sq, c.Skv, c.H, c.D, c.R, c.qk_scale, static_cast<int>(c.layout), Gs,
          static_cast<int>(blocks));
  check_data(ScoreData(c, dtype), Gs, blocks);
}

void check_shapes(DType dtype) {
  check_case({1, 1, 1, 1, 1, 0, 1}, 1, Blocks::kSingleKeys, dtype);
  check_case({2, 9, 130, 2, 16, 0, 12, ScoreLayout::kPadded}, 3, Blocks::kRagged, dtype);
  check_case({2, 150, 150, 2, 24, 0, 36, ScoreLayout::kFused}, 9, Blocks::kRagged, dtype);
  check_case({1, 150, 700, 1, 40, 0, 33}, 33, Blocks::kSingleKeys, dtype);
  check_case({1, 300, 210, 1, 8, 0, 210}, 2, Blocks::kRagged, dtype);
  check_case({1, 300, 65, 1, 12, 0, 200}, 1, Blocks::kSingleKeys, dtype);
  check_case({1, 300, 260, 1, 17, 0, 140}, 1, Blocks::kRagged, dtype);
  check_case({1, 30, 100, 1, 256, 0, 10}, 5, Blocks::kRagged, dtype);
}

TEST_CASE("attention_profile: shapes that fit no tile, views of any stride", "[score_stats]") {
  check_shapes(DType::kF32);
}

TEST_CASE("attention_profile: no rows, no keys, no heads", "[score_stats]") {
  check_case({1, 4, 9, 2, 8, 0, 0}, 0, Blocks::kRagged);
  check_case({1, 4, 9, 2, 8, 0, 0}, 2, Blocks::kSingleKeys);
  check_case({0, 4, 9, 2, 8, 0, 4}, 2, Blocks::kRagged);
}

TEST_CASE("attention_profile: scores of any scale", "[score_stats]") {
  for (const double scale : {1.0, 8.0, 32.0, 128.0}) {
    check_case({1, 70, 300, 1, 64, 0, 20, ScoreLayout::kContiguous, scale}, 5, Blocks::kRagged);
  }
}

// Groups of no, one, some, and all rows.
void check_absent(DType dtype) {
  for (const Blocks blocks : {Blocks::kSingleKeys, Blocks::kRagged}) {
    ScoreData data({2, 40, 90, 2, 16, 0, 20}, dtype);
    for (const std::int64_t n : {0, 1, 2, 3, 4, 6, 7, 9, 15, 16}) data.rows.i32()[n] = -1;
    check_data(data, 5, blocks);
    check_data(data, 1, blocks);
  }
  ScoreData long_groups({1, 400, 70, 1, 16, 0, 300}, dtype);  // more rows than a tile
  for (std::int64_t n = 150; n < 300; ++n) long_groups.rows.i32()[n] = -1;
  check_data(long_groups, 2, Blocks::kRagged);
  long_groups.rows.i32()[299] = 7;
  check_data(long_groups, 2, Blocks::kRagged);
}

TEST_CASE("attention_profile: absent rows count for nothing", "[score_stats]") {
  check_absent(DType::kF32);
}

TEST_CASE("attention_profile: bf16 is refused", "[score_stats]") {
  const Tensor x = full({1, 2, 1, 4}, 1, DType::kBF16);
  check_refuses_bf16([&] {
    tested_kernels().attention_profile(
        {.q = x, .k = x, .rows = ints({0}), .block_mass = empty({1, 1, 1, 2})}, cpu_stream());
  });
}

TEST_CASE("attention_profile: bf16 of any shape and scale on the GPU", "[score_stats][gpu]") {
  DSV_NEEDS_GPU();
  check_shapes(DType::kBF16);
  check_absent(DType::kBF16);
  for (const double scale : {1.0, 8.0, 32.0, 128.0}) {
    check_case({1, 70, 2500, 1, 128, 0, 20, ScoreLayout::kContiguous, scale}, 5, Blocks::kRagged,
               DType::kBF16);
  }
}

}  // namespace
}  // namespace dsv::test
