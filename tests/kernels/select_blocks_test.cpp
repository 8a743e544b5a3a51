#include "dsv/kernels/select_blocks.h"

#include <algorithm>
#include <fstream>
#include <numeric>
#include <sstream>

#include "kernels/support/checks.h"

namespace dsv::test {
namespace {

using kernels::kTileBlocks;
using kernels::Proxy;
using kernels::reference_kernels;
using kernels::SelectBlocks;

Tensor int_tensor(const std::vector<std::int32_t>& from) {
  const Tensor t = empty({static_cast<std::int64_t>(from.size())}, DType::kI32);
  std::copy(from.begin(), from.end(), t.i32());
  return t;
}

// Starts of parts of [0, total): sizes in turn from `sizes`, the last one cut off.
std::vector<std::int32_t> parts(std::int64_t total, const std::vector<int>& sizes) {
  std::vector<std::int32_t> start{0};
  for (std::size_t i = 0; start.back() < total; ++i) {
    start.push_back(static_cast<std::int32_t>(
        std::min<std::int64_t>(total, start.back() + sizes[i % sizes.size()])));
  }
  return start;
}

struct Case {
  std::int64_t B = 1, Sq = 70, Skv = 70, H = 2, r = 16;
  std::vector<int> blocks{16}, groups{32};  // sizes, in turn; no blocks: single keys
  int unit = 1;
  float mass = 0.9f;
  std::int32_t min_keys = 0, max_keys = 1 << 20;
  float scale = 0.25f;
  double size = 1;  // of q and k
  std::int64_t query_offset = 0;
  Proxy proxy = Proxy::kMean;
};

// The inputs of a case: queries and keys are columns of one projection (B, S, 2, H, r) each.
SelectBlocks inputs(const Case& c, DType dtype = DType::kF32) {
  SelectBlocks args{
      .scale = c.scale, .unit = c.unit, .query_offset = c.query_offset, .proxy = c.proxy};
  args.q_lr = random({c.B, c.Sq, 2, c.H, c.r}, 1, c.size, dtype).select(2, 0);
  args.k_lr = random({c.B, c.Skv, 2, c.H, c.r}, 2, c.size, dtype).select(2, 1);
  if (!c.blocks.empty()) {
    auto start = parts(c.Skv, c.blocks);
    while ((start.size() - 1) % kTileBlocks != 0) start.push_back(start.back());
    args.block_start = int_tensor(start);
  }
  args.group_start = int_tensor(parts(c.Sq, c.groups));
  args.slope = full({c.H}, 1), args.mass = full({c.H}, static_cast<double>(c.mass));
  for (std::int64_t h = 0; h < c.H; ++h) args.slope.f32()[h] = 1.0f + 0.25f * static_cast<float>(h);
  args.min_keys = int_tensor(std::vector(static_cast<std::size_t>(c.H), c.min_keys));
  args.max_keys = int_tensor(std::vector(static_cast<std::size_t>(c.H), c.max_keys));
  return args;
}

std::int64_t num_blocks(const SelectBlocks& args) {
  return args.block_start ? args.block_start.num_elements() - 1 : args.k_lr.dim(1);
}

struct Results {
  Output bits, num_keys, covered;
  explicit Results(const SelectBlocks& args)
      : bits(shape(args, true), DType::kU32),
        num_keys(shape(args, false), DType::kI32),
        covered(shape(args, false)) {}
  static Shape shape(const SelectBlocks& args, bool words) {
    const std::int64_t G = args.group_start.num_elements() - 1;
    if (!words) return {args.q_lr.dim(0), args.q_lr.dim(2), G};
    return {args.q_lr.dim(0), args.q_lr.dim(2), G, (num_blocks(args) + 31) / 32};
  }
  void run(const kernels::KernelTable& table, SelectBlocks args, const Stream& stream) const {
    args.bits = bits, args.num_keys = num_keys, args.covered = covered;
    table.select_blocks(args, stream);
  }
};

Results reference_of(const SelectBlocks& args) {
  const Results out(args);
  out.run(reference_kernels(), args, {});
  return out;
}

Results tested(const SelectBlocks& args) {
  const auto out = same_for_any_threads([&](const Stream& stream) {
    const Results one(args);
    one.run(tested_kernels(), args, stream);
    return std::vector<Output>{one.bits, one.num_keys, one.covered};
  });
  Results results(args);
  results.bits = out[0], results.num_keys = out[1], results.covered = out[2];
  return results;
}

std::vector<int> taken_blocks(const SelectBlocks& args, const Results& out, std::int64_t row = 0) {
  std::vector<int> taken;
  const std::int64_t W = (num_blocks(args) + 31) / 32;
  for (int n = 0; n < W * 32; ++n) {
    if (out.bits.tensor().u32()[row * W + n / 32] >> n % 32 & 1) taken.push_back(n);
  }
  return taken;
}

// --- What may be selected ------------------------------------------------------------------------

struct Unit {
  std::int64_t keys = 0;
  double mass = 0;
  bool own = false, taken = false;
};

// The units of one group with their masses in f64, and which of them `out` has taken. Checks that
// blocks of a unit are taken together, and that no bit is set which may not be.
std::vector<Unit> units_of(const SelectBlocks& args, const Results& out, std::int64_t row,
                           double* largest_logit) {
  const std::int64_t H = args.q_lr.dim(2), G = args.group_start.num_elements() - 1;
  const std::int64_t b = row / (H * G), h = row / G % H, g = row % G, N = num_blocks(args);
  const std::int32_t first = args.group_start.i32()[g], end = args.group_start.i32()[g + 1];
  const auto head = [&](const Tensor& t) { return values(t.select(0, b).select(1, h)); };
  const std::vector<double> q = head(args.q_lr), k = head(args.k_lr);
  const auto r = static_cast<std::size_t>(args.q_lr.dim(3));
  std::vector<double> x(r);
  const bool centre = args.proxy == Proxy::kCentre;
  for (int i = first; i < end; ++i) {
    if (centre && i != first + (end - first) / 2) continue;
    for (std::size_t c = 0; c < r; ++c) {
      x[c] += q[static_cast<std::size_t>(i) * r + c] / (centre ? 1 : end - first);
    }
  }
  std::vector<double> t(k.size() / r);
  for (std::size_t j = 0; j < t.size(); ++j) {
    for (std::size_t c = 0; c < r; ++c) t[j] += x[c] * k[j * r + c];
    t[j] *= static_cast<double>(args.slope.f32()[h]) * static_cast<double>(args.scale);
    *largest_logit = std::max(*largest_logit, std::fabs(t[j]));
  }
  const double top = t.empty() ? 0 : *std::max_element(t.begin(), t.end());
  std::vector<Unit> units(static_cast<std::size_t>((N + args.unit - 1) / args.unit));
  const std::vector<int> taken = taken_blocks(args, out, row);
  for (std::int64_t n = 0; n < (N + 31) / 32 * 32; ++n) {
    const std::int64_t from = n >= N ? 0 : args.block_start ? args.block_start.i32()[n] : n;
    const std::int64_t to = n >= N ? 0 : args.block_start ? args.block_start.i32()[n + 1] : n + 1;
    const bool is_taken = std::binary_search(taken.begin(), taken.end(), n);
    if (from == to) {
      CHECK(!is_taken);
      continue;
    }
    Unit& unit = units[static_cast<std::size_t>(n / args.unit)];
    if (unit.keys > 0) CHECK(unit.taken == is_taken);
    unit.taken = is_taken;
    unit.keys += to - from;
    for (std::int64_t j = from; j < to; ++j) {
      unit.mass += std::exp(t[static_cast<std::size_t>(j)] - top);
      unit.own |= j - args.query_offset >= first && j - args.query_offset < end;
    }
  }
  std::erase_if(units, [](const Unit& u) { return u.keys == 0; });
  return units;
}

// `out` is what the rule takes, but for masses that differ by `rounding` (plus what f32 logits of
// this size are off by).
void check_admissible(const SelectBlocks& args, const Results& out, double rounding) {
  const std::int64_t rows = out.num_keys.tensor().num_elements(), H = args.q_lr.dim(2);
  const std::int64_t G = args.group_start.num_elements() - 1;
  for (std::int64_t row = 0; row < rows; ++row) {
    CAPTURE(row);
    const std::int64_t h = row / G % H;
    double largest = 0;
    const std::vector<Unit> units = units_of(args, out, row, &largest);
    // On a GPU masses pass through a logarithm in f32, which is as large as the logits.
    const double tolerance = rounding + (on_cuda() ? 8 : 2) * kEps * largest, tiny = 1e-35;
    double total = 0, mass = 0, least_taken = 1e30, most_left = 0;
    std::int64_t keys = 0, left = 0, others = 0;
    for (const Unit& u : units) {
      total += u.mass;
      if (u.own) CHECK(u.taken);
      if (u.taken) {
        mass += u.mass, keys += u.keys;
        if (!u.own) least_taken = std::min(least_taken, u.mass), ++others;
      } else {
        most_left = std::max(most_left, u.mass), ++left;
      }
    }
    CHECK(out.num_keys.tensor().i32()[row] == keys);
    CHECK(std::fabs(static_cast<double>(out.covered.tensor().f32()[row]) -
                    (total > 0 ? mass / total : 0)) <= tolerance);
    const auto stops = [&](std::int64_t n, double m, double slack) {
      return (n >= args.min_keys.i32()[h] &&
              m >= (static_cast<double>(args.mass.f32()[h]) + slack) * total) ||
             n >= args.max_keys.i32()[h];
    };
    if (left > 0) CHECK(stops(keys, mass, -tolerance));
    if (others == 0) continue;
    if (left > 0) CHECK(most_left <= least_taken * (1 + tolerance) + tiny);
    // One of those that may have been the last was still needed.
    bool needed = false;
    for (const Unit& u : units) {
      needed |= u.taken && !u.own && u.mass <= least_taken * (1 + 2 * tolerance) + tiny &&
                !stops(keys - u.keys, mass - u.mass, tolerance);
    }
    CHECK(needed);
  }
}

// --- By hand -------------------------------------------------------------------------------------

// One head, one group of one query in front of keys of these logits.
SelectBlocks line(const std::vector<float>& logits, float mass, std::int32_t min_keys,
                  std::int32_t max_keys) {
  const auto n = static_cast<std::int64_t>(logits.size());
  SelectBlocks args{.q_lr = full({1, 1, 1, 1}, 1), .k_lr = empty({1, n, 1, 1})};
  std::copy(logits.begin(), logits.end(), args.k_lr.f32());
  args.group_start = int_tensor({0, 1});
  args.slope = full({1}, 1), args.mass = full({1}, static_cast<double>(mass));
  args.min_keys = int_tensor({min_keys}), args.max_keys = int_tensor({max_keys});
  args.query_offset = 1 << 20;  // no key is the group's own
  return args;
}

template <typename Check>
void for_reference_and_backends(const Check& check) {
  check(reference_kernels());
  for_each_backend([&] { check(tested_kernels()); });
}
std::vector<int> taken_by(const kernels::KernelTable& table, const SelectBlocks& args,
                          Results* results = nullptr) {
  const Results out(args);
  out.run(table, args, cpu_stream());
  if (results != nullptr) *results = out;
  return taken_blocks(args, out);
}

constexpr std::int32_t kAny = 1 << 20;

TEST_CASE("select_blocks: five keys by hand", "[select_blocks]") {
  // Masses 1/16, 1, 1/4, 1, 1/2 of 45/16.
  const float ln2 = 0.69314718f;
  const std::vector<float> logits{-4 * ln2, 0, -2 * ln2, 0, -ln2};
  for_reference_and_backends([&](const kernels::KernelTable& table) {
    const auto taken = [&](float mass, std::int32_t min_keys, std::int32_t max_keys) {
      return taken_by(table, line(logits, mass, min_keys, max_keys));
    };
    CHECK(taken(0.3f, 0, kAny) == std::vector{1});
    CHECK(taken(0.5f, 0, kAny) == std::vector{1, 3});
    CHECK(taken(0.8f, 0, kAny) == std::vector{1, 3, 4});
    CHECK(taken(0.97f, 0, kAny) == std::vector{1, 2, 3, 4});
    CHECK(taken(0.99f, 0, kAny) == std::vector{0, 1, 2, 3, 4});
    CHECK(taken(0.3f, 3, kAny) == std::vector{1, 3, 4});  // the floor
    CHECK(taken(0.97f, 0, 2) == std::vector{1, 3});       // the cap
    CHECK(taken(0, 0, kAny).empty());                     // k = 0
    CHECK(taken(2, 0, 0).empty());
    CHECK(taken(2, 1, 1) == std::vector{1});                 // k = 1: the lower of equals
    CHECK(taken(2, 0, kAny) == std::vector{0, 1, 2, 3, 4});  // more than there are
    CHECK(taken(0, kAny, kAny) == std::vector{0, 1, 2, 3, 4});
    Results out(line(logits, 0, 0, 0));
    taken_by(table, line(logits, 0.5f, 0, kAny), &out);
    CHECK(out.num_keys.tensor().i32()[0] == 2);
    CHECK(std::fabs(out.covered.tensor().f32()[0] - 32.0f / 45) <= 1e-6f);
  });
}

TEST_CASE("select_blocks: own units come first, even past the cap", "[select_blocks]") {
  for_reference_and_backends([&](const kernels::KernelTable& table) {
    SelectBlocks args = line({-9, 3, -9, 1, 2, -9}, 2, 0, 1);
    args.q_lr = full({1, 3, 1, 1}, 1), args.group_start = int_tensor({0, 3});
    args.query_offset = 1;
    CHECK(taken_by(table, args) == std::vector{1, 2, 3});
    args.max_keys = int_tensor({4});
    CHECK(taken_by(table, args) == std::vector{1, 2, 3, 4});
    args.query_offset = -2;  // only its last query is among the keys
    args.max_keys = int_tensor({0});
    CHECK(taken_by(table, args) == std::vector{0});
    args.query_offset = 5;  // only its first
    CHECK(taken_by(table, args) == std::vector{5});
    args.query_offset = 6;
    CHECK(taken_by(table, args).empty());
    args.query_offset = -3;
    CHECK(taken_by(table, args).empty());
  });
}

TEST_CASE("select_blocks: NaN counts as -inf, nothing but -inf goes by index", "[select_blocks]") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  for_reference_and_backends([&](const kernels::KernelTable& table) {
    CHECK(taken_by(table, line({nan, -1, nan, 0, -inf}, 2, 3, 3)) == std::vector{0, 1, 3});
    CHECK(taken_by(table, line({nan, 0, nan}, 0.5f, 0, kAny)) == std::vector{1});
    Results out(line({nan, -inf, nan}, 2, 2, 2));
    CHECK(taken_by(table, line({nan, -inf, nan}, 2, 2, 2), &out) == std::vector{0, 1});
    CHECK(out.covered.tensor().f32()[0] == 0);
    CHECK(taken_by(table, line({nan, nan, nan}, 0.5f, 0, kAny)).empty());
    CHECK(taken_by(table, line({-3e38f, inf, 7, inf}, 0.9f, 0, kAny)) == std::vector{1, 3});
    CHECK(taken_by(table, line({-inf, -1e4f, 1e4f, 1e4f - 1}, 2, 2, 2)) == std::vector{2, 3});
    CHECK(taken_by(table, line({-1e4f, -1e4f - 1, -1e4f}, 0.5f, 0, kAny)) == std::vector{0, 2});
    CHECK(taken_by(table, line({0.0f, -0.0f, 0.0f, -0.0f}, 2, 2, 2)) == std::vector{0, 1});
  });
}

TEST_CASE("select_blocks: no keys, no groups, no heads", "[select_blocks]") {
  for_each_backend([] {
    for (const Case& c : {Case{.Skv = 0}, Case{.Sq = 0}, Case{.B = 0}, Case{.H = 0}}) {
      CAPTURE(c.B, c.Sq, c.Skv, c.H);
      const SelectBlocks args = inputs(c);
      const Results got = tested(args), want = reference_of(args);
      CHECK(bitwise_equal(got.bits, want.bits));
      CHECK(bitwise_equal(got.num_keys, want.num_keys));
      CHECK(bitwise_equal(got.covered, want.covered));
    }
  });
}

// --- Exactly the reference -----------------------------------------------------------------------

// Small integers, the same for all keys of a unit: few different masses, far apart, many equal
// ones.
SelectBlocks integers(const Case& c, DType dtype, int num_values) {
  SelectBlocks args = inputs(c, dtype);
  const PhiloxStream stream({.seed = 11, .purpose = RngPurpose::kTest});
  const std::int64_t N = num_blocks(args), H = c.H, r = c.r;
  std::vector<std::int64_t> unit_of(static_cast<std::size_t>(c.Skv));
  for (std::int64_t n = 0; n < N; ++n) {
    const std::int64_t from = args.block_start ? args.block_start.i32()[n] : n;
    const std::int64_t to = args.block_start ? args.block_start.i32()[n + 1] : n + 1;
    for (std::int64_t j = from; j < to; ++j) unit_of[static_cast<std::size_t>(j)] = n / c.unit;
  }
  std::int64_t e = 0;
  for_each_element(args.q_lr, [&](std::int64_t at, auto, auto) {
    write_element(args.q_lr, at, e++ % r == 1 ? 2 : 1);
  });
  e = 0;
  for_each_element(args.k_lr, [&](std::int64_t at, auto, auto) {
    const std::int64_t j = e / (H * r) % c.Skv, h = e / r % H, channel = e++ % r;
    const auto place = static_cast<std::uint64_t>(unit_of[static_cast<std::size_t>(j)] * H + h);
    const int value = static_cast<int>(stream.word(place) % static_cast<std::uint32_t>(num_values));
    write_element(args.k_lr, at, channel == 0 ? 2 * value : channel == 1 ? -value / 2 : 0);
  });
  return args;
}

std::vector<Case> exact_cases() {
  std::vector<Case> cases;
  for (const int unit : {1, static_cast<int>(kTileBlocks)}) {
    for (const auto& blocks : {std::vector<int>{}, {16}, {15}, {13, 16, 1, 9}, {3, 0, 5, 0, 0}}) {
      for (const std::int64_t Skv : {std::int64_t{1}, std::int64_t{31}, std::int64_t{523}}) {
        const std::int32_t k = static_cast<std::int32_t>(Skv) / 5;
        Case c{.Sq = 97,
               .Skv = Skv,
               .r = 8,
               .blocks = blocks,
               .groups = {40, 1, 0, 23},
               .unit = unit,
               .scale = 0.5f,
               .query_offset = 3};
        c.mass = 0.83f, cases.push_back(c);
        c.mass = 2, c.min_keys = c.max_keys = k, cases.push_back(c);
        c.mass = 0.3f, c.max_keys = 4 * k, cases.push_back(c);
      }
    }
  }
  return cases;
}

void check_exactly(const Case& c, DType dtype, int num_values) {
  CAPTURE(c.Skv, c.blocks, c.unit, c.mass, c.min_keys, c.max_keys, num_values);
  const SelectBlocks args = integers(c, dtype, num_values);
  const Results got = tested(args), want = reference_of(args);
  CHECK(bitwise_equal(got.bits, want.bits));
  CHECK(bitwise_equal(got.num_keys, want.num_keys));
  CHECK(max_distance(got.covered, want.covered) <= 1e-5);
}

TEST_CASE("select_blocks: exactly the sorted selection, ties by index", "[select_blocks]") {
  for_each_backend([] {
    for (const Case& c : exact_cases()) check_exactly(c, DType::kF32, 7);
  });
}

TEST_CASE("select_blocks: all-equal logits are taken by index", "[select_blocks]") {
  for_each_backend([] {
    for (const auto& blocks : {std::vector<int>{}, {16}, {4}}) {
      for (const std::int32_t k : {1, 2, 33, 64, 400}) {
        check_exactly({.Sq = 40,
                       .Skv = 400,
                       .r = 4,
                       .blocks = blocks,
                       .groups = {9, 1},
                       .mass = 2,
                       .min_keys = k,
                       .max_keys = k,
                       .query_offset = 100},
                      DType::kF32, 1);
      }
    }
  });
}

// --- Within rounding -----------------------------------------------------------------------------

std::vector<Case> random_cases() {
  return {
      {},
      {.B = 2, .Sq = 300, .Skv = 300, .H = 6, .groups = {64}, .unit = 4},
      {.B = 2, .Sq = 75, .Skv = 1000, .r = 32, .blocks = {}, .groups = {7}, .mass = 0.5f},
      {.Sq = 40, .Skv = 1001, .r = 8, .blocks = {}, .groups = {40}, .unit = 4, .mass = 0.7f},
      {.Sq = 65, .Skv = 900, .r = 128, .blocks = {15}, .scale = 0.09f, .proxy = Proxy::kCentre},
      {.Sq = 65, .Skv = 500, .H = 1, .r = 1, .blocks = {16, 3}, .groups = {1, 5}, .scale = 1},
      {.Sq = 65, .Skv = 500, .r = 256, .blocks = {16}, .unit = 4, .min_keys = 100, .scale = 0.06f},
      {.Sq = 520,
       .Skv = 2000,
       .H = 1,
       .r = 19,
       .blocks = {12, 16, 0, 16},
       .groups = {128, 8},
       .unit = 4,
       .mass = 2,
       .min_keys = 300,
       .max_keys = 300},
      {.Sq = 97,
       .Skv = 700,
       .blocks = {1, 2, 3, 16},
       .groups = {1},
       .max_keys = 50,
       .size = 3,
       .query_offset = 500,
       .proxy = Proxy::kCentre},
      {.Sq = 64, .Skv = 640, .groups = {4}, .scale = 1, .size = 30},  // logits of 1e4
      {.Sq = 64, .Skv = 640, .groups = {4}, .mass = 0.999f, .size = 1e-3},
      {.Sq = 33, .Skv = 5000, .H = 1, .blocks = {}, .groups = {1}, .mass = 0.95f, .size = 2},
  };
}

TEST_CASE("select_blocks: what is taken outweighs what is left", "[select_blocks]") {
  for_each_backend([] {
    for (const Case& c : random_cases()) {
      CAPTURE(c.Sq, c.Skv, c.r, c.blocks, c.groups, c.unit, c.size);
      const SelectBlocks args = inputs(c);
      check_admissible(args, tested(args), 5e-7);
    }
  });
}

TEST_CASE("select_blocks: the reference takes what it may", "[select_blocks]") {
  for (const Case& c : random_cases()) {
    CAPTURE(c.Sq, c.Skv, c.r, c.blocks, c.groups, c.unit, c.size);
    const SelectBlocks args = inputs(c);
    check_admissible(args, reference_of(args), 1e-7);
  }
}

TEST_CASE("select_blocks: bf16 on the GPU", "[select_blocks][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    for (const Case& c : exact_cases()) check_exactly(c, DType::kBF16, 7);
    for (Case c : exact_cases()) c.r = 16, check_exactly(c, DType::kBF16, 7);
    for (const Case& c : random_cases()) {
      CAPTURE(c.Sq, c.Skv, c.r, c.blocks, c.groups, c.unit, c.size);
      const SelectBlocks args = inputs(c, DType::kBF16);
      check_admissible(args, tested(args), 1e-3);
    }
    // Rows of keys at addresses that no vector load can use.
    SelectBlocks args = inputs({.r = 17}, DType::kBF16);
    args.q_lr = args.q_lr.slice(3, 1, 17), args.k_lr = args.k_lr.slice(3, 1, 17);
    check_admissible(args, tested(args), 1e-3);
    // More tiles of groups than the GPU holds at a time.
    check_exactly({.Sq = 9000, .Skv = 64, .H = 8, .r = 16, .groups = {2}, .mass = 0.83f},
                  DType::kBF16, 7);
  });
}

// --- Nothing large on the way --------------------------------------------------------------------

// kB of this process, by a name in /proc/self/status.
std::int64_t status_kb(const std::string& name) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(name + ":", 0) == 0) return std::stoll(line.substr(name.size() + 1));
  }
  return 0;
}

TEST_CASE("select_blocks: no matrix of groups by keys in memory", "[select_blocks]") {
  // Groups x keys in f32 would be 128 MiB; a panel of 32 groups takes 68 floats a key and thread.
  const SelectBlocks args = inputs({.Sq = 2048,
                                    .Skv = 16384,
                                    .H = 1,
                                    .r = 4,
                                    .blocks = {},
                                    .groups = {1},
                                    .mass = 2,
                                    .min_keys = 9,
                                    .max_keys = 9});
  const Results out(args);
  std::ofstream("/proc/self/clear_refs") << "5";  // the high-water mark begins anew
  const std::int64_t before = status_kb("VmHWM");
  out.run(kernels::cpu_kernels(), args, cpu_stream(2));
  CHECK(status_kb("VmHWM") - before <= 24 << 10);
  CHECK(out.num_keys.tensor().i32()[2047] == 9);
}

TEST_CASE("select_blocks: bf16 is refused", "[select_blocks]") {
  const SelectBlocks args = inputs({}, DType::kBF16);
  const Results out(args);
  check_refuses_bf16([&] { out.run(tested_kernels(), args, cpu_stream()); });
}

}  // namespace
}  // namespace dsv::test
