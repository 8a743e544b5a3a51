#include "dsv/kernels/sparse_attention.h"

#include <sys/mman.h>

#include "kernels/support/attention_errors.h"

namespace dsv::test {
namespace {

using kernels::kMaxBlockKeys;
using kernels::kMaxGroupQueries;
using kernels::kTileBlocks;
using kernels::reference_kernels;

enum class Blocks { kSingle, kSixteen, kRagged };  // kRagged: of 0 to 16 keys
constexpr std::int64_t kRaggedGroups = 0;          // of 1 to 128 queries

struct Case {
  std::int64_t B, Sq, Skv, H, D;
  Blocks blocks = Blocks::kSingle;
  std::int64_t group = 64;  // queries, or kRaggedGroups
  double density = 0.3;
  bool padded = false;  // views with gaps
  double qk_scale = 1, vdo_scale = 1;
};

double uniform(std::uint64_t id, std::int64_t element) {
  return philox_uniform({.seed = 7, .purpose = RngPurpose::kTest, .sample = id},
                        static_cast<std::uint64_t>(element));
}

Tensor starts_of(const std::vector<std::int64_t>& sizes) {
  const Tensor out = empty({static_cast<std::int64_t>(sizes.size()) + 1}, DType::kI32);
  std::int32_t at = 0;
  out.i32()[0] = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    out.i32()[i + 1] = at += static_cast<std::int32_t>(sizes[i]);
  }
  return out;
}

// Pieces of `size` (random ones of `least` to `most` if 0) that make up n.
std::vector<std::int64_t> pieces(std::int64_t n, std::int64_t size, std::int64_t least,
                                 std::int64_t most, std::uint64_t id) {
  std::vector<std::int64_t> out;
  for (std::int64_t left = n; left > 0; left -= out.back()) {
    const double u = uniform(id, static_cast<std::int64_t>(out.size()));
    const auto drawn = least + static_cast<std::int64_t>(u * static_cast<double>(most - least + 1));
    out.push_back(std::min(left, size > 0 ? size : drawn));
  }
  return out;
}

// A selection and what it means. Bits that mean nothing are 1.
struct Selection {
  Tensor bits, by_block, block_start, group_start;
  std::vector<std::int64_t> group_of_query, block_of_key;

  // `picks(b, h, group, block)` says which blocks a group attends to.
  template <typename Picks>
  Selection(const Case& c, const Picks& picks) {
    const std::vector<std::int64_t> groups = pieces(c.Sq, c.group, 1, kMaxGroupQueries, 11);
    group_start = starts_of(groups);
    for (std::size_t g = 0; g < groups.size(); ++g) {
      group_of_query.insert(group_of_query.end(), static_cast<std::size_t>(groups[g]),
                            static_cast<std::int64_t>(g));
    }
    const std::int64_t size = c.blocks == Blocks::kSingle    ? 1
                              : c.blocks == Blocks::kSixteen ? kMaxBlockKeys
                                                             : 0;
    std::vector<std::int64_t> blocks = pieces(c.Skv, size, 0, kMaxBlockKeys, 12);
    while (c.blocks != Blocks::kSingle && blocks.size() % kTileBlocks != 0) blocks.push_back(0);
    if (c.blocks != Blocks::kSingle) block_start = starts_of(blocks);
    for (std::size_t n = 0; n < blocks.size(); ++n) {
      block_of_key.insert(block_of_key.end(), static_cast<std::size_t>(blocks[n]),
                          static_cast<std::int64_t>(n));
    }
    const auto G = static_cast<std::int64_t>(groups.size());
    const auto N = static_cast<std::int64_t>(blocks.size()), words = (N + 31) / 32;
    bits = empty({c.B, c.H, G, words}, DType::kU32);
    by_block = empty({c.B, c.H, N, (G + 31) / 32}, DType::kU32);
    std::fill_n(by_block.u32(), by_block.num_elements(), 0u);
    for (std::int64_t head = 0; head < c.B * c.H; ++head) {
      for (std::int64_t g = 0; g < G; ++g) {
        for (std::int64_t n = 0; n < 32 * words; ++n) {
          std::uint32_t& word = bits.u32()[(head * G + g) * words + n / 32];
          const bool junk = n >= N || blocks[static_cast<std::size_t>(n)] == 0;
          const std::uint32_t one = 1u << (n % 32);
          word = junk || picks(head / c.H, head % c.H, g, n) ? word | one : word & ~one;
          if (n >= N || (word & one) == 0) continue;
          by_block.u32()[(head * N + n) * by_block.dim(3) + g / 32] |= 1u << (g % 32);
        }
      }
    }
  }

  bool has(std::int64_t b, std::int64_t h, std::int64_t g, std::int64_t n) const {
    const std::int64_t row = (b * bits.dim(1) + h) * bits.dim(2) + g;
    return (bits.u32()[row * bits.dim(3) + n / 32] >> (n % 32) & 1u) != 0;
  }
  bool attends(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j) const {
    return has(b, h, group_of_query[static_cast<std::size_t>(i)],
               block_of_key[static_cast<std::size_t>(j)]);
  }
  bool any_group_wants(std::int64_t b, std::int64_t h, std::int64_t j) const {
    for (std::int64_t g = 0; g < bits.dim(2); ++g) {
      if (has(b, h, g, block_of_key[static_cast<std::size_t>(j)])) return true;
    }
    return false;
  }
};

// Random blocks; block 0 by every group, block 1 by none.
Selection random_selection(const Case& c) {
  return Selection(c, [&](std::int64_t b, std::int64_t h, std::int64_t g, std::int64_t n) {
    if (c.density >= 1 || c.density <= 0) return c.density >= 1;
    if (n < 2) return n == 0;
    return uniform(13, ((b * c.H + h) * 1000 + g) * 100000 + n) < c.density;
  });
}

struct Data : AttentionInputs {
  Selection selection;

  explicit Data(const Case& c, DType dtype = DType::kF32) : Data(c, random_selection(c), dtype) {}
  Data(const Case& c, Selection chosen, DType dtype = DType::kF32) : selection(std::move(chosen)) {
    scale = 0.9f / std::sqrt(static_cast<float>(c.D));
    const Shape pad = c.padded ? Shape{0, 1, 2, 3} : Shape{0, 0, 0, 0};
    q = random({c.B, c.Sq, c.H, c.D}, 1, c.qk_scale, dtype, pad);
    k = random({c.B, c.Skv, c.H, c.D}, 2, c.qk_scale, dtype, pad);
    v = random({c.B, c.Skv, c.H, c.D}, 3, c.vdo_scale, dtype, pad);
    d_o = random({c.B, c.Sq, c.H, c.D}, 4, c.vdo_scale, dtype, pad);
  }
};

void forward(const kernels::KernelTable& table, const AttentionInputs& d, const Selection& s,
             const Tensor& o, const Tensor& lse, const Stream& stream) {
  table.sparse_attention_forward({.q = d.q, .k = d.k, .v = d.v, .bits = s.bits,
                                  .block_start = s.block_start, .group_start = s.group_start,
                                  .o = o, .lse = lse, .scale = d.scale},
                                 stream);
}
struct Gradients {
  Tensor dq, dk, dv, delta;
};
void backward(const kernels::KernelTable& table, const AttentionInputs& d, const Selection& s,
              const Tensor& o, const Tensor& lse, const Gradients& to, const Stream& stream) {
  table.sparse_attention_backward(
      {.q = d.q, .k = d.k, .v = d.v, .bits = s.bits, .by_block = s.by_block,
       .block_start = s.block_start, .group_start = s.group_start, .o = o, .lse = lse,
       .d_o = d.d_o, .dq = to.dq, .dk = to.dk, .dv = to.dv, .delta = to.delta, .scale = d.scale},
      stream);
}

AttentionResults reference(const Data& data) {
  const AttentionInputs d = data.to_f64();
  const Shape rows{d.q.dim(0), d.q.dim(2), d.q.dim(1)};
  AttentionResults r{.o = f64_like(d.q), .lse = empty(rows, DType::kF64), .dq = f64_like(d.q),
                     .dk = f64_like(d.k), .dv = f64_like(d.v)};
  forward(reference_kernels(), d, data.selection, r.o, r.lse, {});
  backward(reference_kernels(), d, data.selection, r.o, r.lse,
           {r.dq, r.dk, r.dv, f64_like(r.lse)}, {});
  return r;
}

// o, lse, dq, dk, dv, delta, all guarded, o and the gradients in strides of their own.
std::vector<Output> run(const Data& d, const Stream& stream, bool padded = false) {
  const Shape pad = padded ? Shape{0, 2, 1, 5} : Shape{0, 0, 0, 0};
  const Shape rows{d.q.dim(0), d.q.dim(2), d.q.dim(1)};
  const DType dtype = d.q.dtype();
  std::vector<Output> out;
  out.emplace_back(d.q.shape(), dtype, pad);
  out.emplace_back(rows);
  out.emplace_back(d.q.shape(), dtype, pad);
  out.emplace_back(d.k.shape(), dtype, pad);
  out.emplace_back(d.v.shape(), dtype, pad);
  out.emplace_back(rows);
  forward(tested_kernels(), d, d.selection, out[0], out[1], stream);
  backward(tested_kernels(), d, d.selection, out[0], out[1], {out[2], out[3], out[4], out[5]},
           stream);
  return out;
}

void check_data(const Data& data, bool padded = false) {
  const AttentionResults want = reference(data);
  const AttentionSizes sizes = sizes_of(
      data, want, [&](auto... pair) { return data.selection.attends(pair...); });
  for_each_backend_of(data.q.dtype(), [&] {
    check_attention(data, want, sizes, same_for_any_threads([&](const Stream& stream) {
                      return run(data, stream, padded);
                    }));
  });
}

void check_case(const Case& c, DType dtype = DType::kF32) {
  CAPTURE(c.B, c.Sq, c.Skv, c.H, c.D, c.group, c.density, c.qk_scale, c.vdo_scale,
          static_cast<int>(c.blocks), c.padded);
  check_data(Data(c, dtype), c.padded);
}

TEST_CASE("sparse_attention: the reference, by hand", "[sparse_attention]") {
  const Case c{1, 2, 3, 1, 1, Blocks::kSingle, 1};
  Data d(c, Selection(c, [](auto, auto, std::int64_t g, std::int64_t n) {
           return g == 0 && n < 2;  // the second query has no keys
         }));
  d.scale = 1;
  const double numbers[] = {0, std::log(2.0), NAN, 3, 6, NAN};
  for (std::int64_t j = 0; j < 3; ++j) {
    d.k.f32()[j] = static_cast<float>(numbers[j]);
    d.v.f32()[j] = static_cast<float>(numbers[3 + j]);
  }
  for (std::int64_t i = 0; i < 2; ++i) d.q.f32()[i] = d.d_o.f32()[i] = 1;
  const AttentionResults r = reference(d);  // p = 1/3, 2/3; dp = 3, 6; delta = 5
  const auto near = [](const Tensor& got, std::vector<double> want) {
    const std::vector<double> g = values(got);
    REQUIRE(g.size() == want.size());
    for (std::size_t e = 0; e < g.size(); ++e) {
      CHECK(detail::distance(g[e], want[e]) <= 1e-6);
    }
  };
  near(r.o, {5, 0});
  near(r.lse, {std::log(3.0), -INFINITY});
  near(r.dq, {2.0 / 3 * std::log(2.0), 0});
  near(r.dk, {-2.0 / 3, 2.0 / 3, 0});
  near(r.dv, {1.0 / 3, 2.0 / 3, 0});
}

TEST_CASE("sparse_attention: the reference's gradients against finite differences",
          "[sparse_attention]") {
  const Case c{2, 9, 23, 2, 5, Blocks::kRagged, 4, 0.5};
  const Data data(c);
  const AttentionResults r = reference(data);
  const AttentionInputs d = data.to_f64();
  const auto loss = [&] {
    const Tensor o = f64_like(d.q), lse = f64_like(r.lse);
    forward(reference_kernels(), d, data.selection, o, lse, {});
    return inner(o, d.d_o);
  };
  CHECK(gradient_error(loss, d.q, r.dq) < 1e-9);
  CHECK(gradient_error(loss, d.k, r.dk) < 1e-9);
  CHECK(gradient_error(loss, d.v, r.dv) < 1e-9);
}

TEST_CASE("sparse_attention: blocks and groups of any size, views of any stride",
          "[sparse_attention]") {
  for (const Case& c : std::vector<Case>{
           {1, 1, 1, 1, 1, Blocks::kSingle, 64, 1},
           {1, 1, 7, 1, 16},
           {2, 5, 30, 3, 17, Blocks::kRagged, 2, 0.5, true},
           {1, 70, 140, 2, 24, Blocks::kSingle, 64, 0.4, true},
           {2, 150, 97, 1, 40, Blocks::kSixteen, kRaggedGroups, 0.5},
           {1, 300, 450, 1, 64, Blocks::kRagged, kRaggedGroups, 0.3, true},
           {1, 140, 900, 1, 20, Blocks::kSingle, 128, 0.7},
           {1, 33, 1300, 1, 64, Blocks::kRagged, 16, 0.2},
           {1, 40, 600, 1, 72, Blocks::kSingle, 1, 0.1},
           {1, 64, 200, 1, 128, Blocks::kSixteen},
           {1, 20, 230, 1, 250, Blocks::kRagged, kRaggedGroups, 0.5, true},
           {1, 30, 300, 1, 256, Blocks::kSingle, 64, 0.5},
       }) {
    check_case(c);
  }
}

TEST_CASE("sparse_attention: activations of any scale", "[sparse_attention]") {
  for (const double scale : {1.0, 8.0, 32.0, 128.0}) {
    check_case({1, 70, 250, 1, 64, Blocks::kRagged, 64, 0.4, false, scale, 1});
    check_case({1, 70, 250, 1, 64, Blocks::kSingle, 64, 0.4, false, 1, scale});
    check_case({1, 40, 120, 1, 128, Blocks::kSixteen, 64, 0.4, false, scale, scale});
  }
}

TEST_CASE("sparse_attention: no tokens at all", "[sparse_attention]") {
  check_case({1, 0, 5, 1, 8});
  check_case({0, 4, 5, 2, 8});
  check_case({2, 4, 0, 2, 8});
  check_case({2, 4, 0, 2, 8, Blocks::kRagged});
}

void check_nothing_selected(DType dtype) {
  for (const Blocks blocks : {Blocks::kSingle, Blocks::kRagged}) {
    const Case c{2, 50, 70, 2, 16, blocks, 16, 0};
    const Data data(c, dtype);
    for_each_backend_of(dtype, [&] {
      const auto got = run(data, cpu_stream(2));
      for (const std::size_t i : {0u, 2u, 3u, 4u}) {
        for (const double x : values(got[i])) CHECK(x == 0);
      }
      for (const double x : values(got[1])) CHECK(x == -INFINITY);
    });
  }
}

TEST_CASE("sparse_attention: groups without any key", "[sparse_attention]") {
  check_nothing_selected(DType::kF32);
  const Case c{1, 60, 100, 1, 16, Blocks::kSingle, 10};
  check_data(Data(c, Selection(c, [](auto, auto, std::int64_t g, std::int64_t n) {
                    return g % 2 == 0 && n % 3 == 0;
                  })));
}

TEST_CASE("sparse_attention: exactly one key", "[sparse_attention]") {
  const Case c{1, 20, 100, 1, 16, Blocks::kSingle, 5};
  const Data data(c, Selection(c, [](auto, auto, std::int64_t g, std::int64_t n) {
                    return n == 33 * g;
                  }));
  check_data(data);
  for_each_backend([&] {
    const auto got = run(data, cpu_stream());
    for (std::int64_t i = 0; i < 20; ++i) {
      const Tensor o = got[0].tensor().slice(1, i, i + 1);
      CHECK(max_distance(o, data.v.slice(1, 33 * (i / 5), 33 * (i / 5) + 1)) <= 1e-6);
    }
  });
}

TEST_CASE("sparse_attention: with every key selected it is dense attention", "[sparse_attention]") {
  for (const Blocks blocks : {Blocks::kSingle, Blocks::kSixteen, Blocks::kRagged}) {
    const Case c{2, 130, 250, 1, 24, blocks, kRaggedGroups, 1};
    const Data d(c);
    for_each_backend([&] {
      const auto got = run(d, cpu_stream(2));
      const Shape rows{c.B, c.H, c.Sq};
      const Output o(d.q.shape()), lse(rows), delta(rows);
      const Output dq(d.q.shape()), dk(d.k.shape()), dv(d.v.shape());
      tested_kernels().attention_forward(
          {.q = d.q, .k = d.k, .v = d.v, .o = o, .lse = lse, .scale = d.scale}, cpu_stream());
      tested_kernels().attention_backward({.q = d.q, .k = d.k, .v = d.v, .o = o, .lse = lse,
                                           .d_o = d.d_o, .dq = dq, .dk = dk, .dv = dv,
                                           .delta = delta, .scale = d.scale},
                                          cpu_stream());
      CHECK(tensor_error(got[0], o) <= 16 * kEps);
      CHECK(max_distance(got[1], lse) <= 64 * kEps);
      CHECK(tensor_error(got[2], dq) <= 16 * kEps);
      CHECK(tensor_error(got[3], dk) <= 16 * kEps);
      CHECK(tensor_error(got[4], dv) <= 16 * kEps);
    });
  }
}

void check_patterns(DType dtype) {
  // All 16 masks of a tile's four blocks, and whole tiles against the same keys taken one by one.
  Case c{1, 16 * 5, 16 * 64, 1, 16, Blocks::kSixteen, 5};
  const auto nibble = [](std::int64_t g, std::int64_t block) {
    return ((g + block / kTileBlocks) % 16 >> (block % kTileBlocks) & 1) != 0;
  };
  check_data(Data(c, Selection(c, [&](auto, auto, auto g, auto n) { return nibble(g, n); }),
                  dtype));
  c.blocks = Blocks::kSingle;
  check_data(Data(c, Selection(c, [&](auto, auto, auto g, auto n) { return nibble(g, n / 16); }),
                  dtype));
  const auto tile = [](std::int64_t g, std::int64_t at) { return (at * 7 + g) % 5 == 0; };
  check_data(Data(c, Selection(c, [&](auto, auto, auto g, auto n) { return tile(g, n / 64); }),
                  dtype));
  c.blocks = Blocks::kSixteen;
  check_data(Data(c, Selection(c, [&](auto, auto, auto g, auto n) { return tile(g, n / 4); }),
                  dtype));
}

TEST_CASE("sparse_attention: any mask of a tile's blocks", "[sparse_attention]") {
  check_patterns(DType::kF32);
}

void check_unselected(const Case& c, DType dtype) {
  // Rows that no group of the head wants are NaN: they must not be read, nor multiplied with 0.
  Data data(c, dtype);
  std::int64_t unwanted = 0;
  for (std::int64_t b = 0; b < c.B; ++b) {
    for (std::int64_t h = 0; h < c.H; ++h) {
      for (std::int64_t j = 0; j < c.Skv; ++j) {
        if (data.selection.any_group_wants(b, h, j)) continue;
        ++unwanted;
        for (const Tensor& t : {data.k, data.v}) {
          const Tensor row = t.select(2, h).select(0, b).slice(0, j, j + 1);
          for_each_element(row, [&](std::int64_t at, auto, auto) { write_element(row, at, NAN); });
        }
      }
    }
  }
  REQUIRE(unwanted > 10);
  check_data(data);
  for_each_backend_of(dtype, [&] {
    const auto got = run(data, cpu_stream(2));
    for (std::int64_t b = 0; b < c.B; ++b) {
      for (std::int64_t h = 0; h < c.H; ++h) {
        for (std::int64_t j = 0; j < c.Skv; ++j) {
          if (data.selection.any_group_wants(b, h, j)) continue;
          for (const std::size_t i : {3u, 4u}) {
            const Tensor row = got[i].tensor().select(2, h).select(0, b).slice(0, j, j + 1);
            for (const double x : values(row)) CHECK(x == 0);
          }
        }
      }
    }
  });
}

TEST_CASE("sparse_attention: keys that nobody selects are never read and get exact zeros",
          "[sparse_attention]") {
  check_unselected({1, 40, 300, 2, 16, Blocks::kSingle, 16, 0.1}, DType::kF32);
  check_unselected({2, 40, 300, 1, 64, Blocks::kRagged, 32, 0.1}, DType::kF32);
}

void check_others_keys(DType dtype) {
  // A key with NaN is nothing to the groups that do not select it.
  const Case c{1, 60, 260, 1, 16, Blocks::kRagged, 20, 0.3};
  const Data clean(c, dtype);
  Data spoilt(c, dtype);
  std::vector<bool> hit(60);
  for (std::int64_t j = 0; j < c.Skv; ++j) {
    if (!clean.selection.attends(0, 0, 30, j) || clean.selection.attends(0, 0, 0, j)) continue;
    for (const Tensor& t : {spoilt.k, spoilt.v}) {
      const Tensor row = t.slice(1, j, j + 1);
      for_each_element(row, [&](std::int64_t at, auto, auto) { write_element(row, at, NAN); });
    }
    for (std::int64_t i = 0; i < 60; ++i) {
      if (clean.selection.attends(0, 0, i, j)) hit[static_cast<std::size_t>(i)] = true;
    }
  }
  REQUIRE(!hit[0]);
  REQUIRE(hit[30]);
  for_each_backend_of(dtype, [&] {
    const auto want = run(clean, cpu_stream()), got = run(spoilt, cpu_stream());
    for (std::int64_t i = 0; i < 60; ++i) {
      if (hit[static_cast<std::size_t>(i)]) continue;
      for (const std::size_t o : {0u, 2u}) {
        CHECK(bitwise_equal(got[o].tensor().slice(1, i, i + 1),
                            want[o].tensor().slice(1, i, i + 1)));
      }
    }
  });
}

TEST_CASE("sparse_attention: a key reaches only the groups that select it", "[sparse_attention]") {
  check_others_keys(DType::kF32);
}

// q and k such that every logit is near `logit`: one shared direction and a little noise.
Data aligned(const Case& c, double logit, double noise, DType dtype = DType::kF32) {
  Data data(c, dtype);
  data.scale = 1;
  const double q_size = std::sqrt(std::fabs(logit) / static_cast<double>(c.D));
  for (const Tensor& t : {data.q, data.k}) {
    const double sign = t.raw() == data.k.raw() && logit < 0 ? -1 : 1;
    for_each_element(t, [&](std::int64_t at, auto, auto) {
      write_element(t, at, sign * q_size + noise * read_element(t, at));
    });
  }
  return data;
}

TEST_CASE("sparse_attention: keys that only fill up a tile do not leak in", "[sparse_attention]") {
  // A zero key scores 0, which would outweigh logits far below it.
  for (const Blocks blocks : {Blocks::kSingle, Blocks::kRagged}) {
    for (const std::int64_t Skv : {5, 13, 193, 500}) {
      CAPTURE(Skv);
      check_data(aligned({1, 20, Skv, 1, 16, blocks, 7, 0.4}, -200, 0.05));
    }
  }
}

TEST_CASE("sparse_attention: huge logits neither overflow nor lose the largest",
          "[sparse_attention]") {
  const Case c{1, 24, 400, 1, 32, Blocks::kRagged, 16, 0.4};
  check_data(aligned(c, 1e4, 0.05));
  check_data(aligned(c, -1e4, 0.05));
  check_case({1, 24, 400, 1, 32, Blocks::kSingle, 16, 0.4, false, 45, 1});  // ± 1e4, one-hot
}

TEST_CASE("sparse_attention: weights add up to 1, and to a gradient of 0 of equal values",
          "[sparse_attention]") {
  Data data({1, 70, 700, 1, 24, Blocks::kSingle, 32, 0.5, false, 4, 1});
  data.v = full(data.v.shape(), 1);
  for_each_backend([&] {
    const auto got = run(data, cpu_stream(2));
    for (const double x : values(got[0])) CHECK(std::fabs(x - 1) <= 16 * kEps);
    CHECK(max_abs(got[2]) <= 1e-4);
    CHECK(max_abs(got[3]) <= 1e-4);
    // Each query gives its whole do away.
    const std::vector<double> dv = values(got[4]), d_o = values(data.d_o);
    for (std::size_t c = 0; c < 24; ++c) {
      double given = 0, got_back = 0;
      for (std::size_t e = c; e < d_o.size(); e += 24) given += d_o[e];
      for (std::size_t e = c; e < dv.size(); e += 24) got_back += dv[e];
      CHECK(std::fabs(given - got_back) <= 1e-4);
    }
  });
}

TEST_CASE("sparse_attention: a query's result does not depend on other groups' selections",
          "[sparse_attention]") {
  const Case c{1, 200, 600, 2, 24, Blocks::kRagged, 40, 0.3};
  const Selection some = random_selection(c);
  const auto half = [&](std::int64_t b, std::int64_t h, std::int64_t g, std::int64_t n) {
    return g % 2 == 0 ? some.has(b, h, g, n) : n % 2 == 0;
  };
  const Data all(c, some), other(c, Selection(c, half));
  for_each_backend([&] {
    const auto want = run(all, cpu_stream(2)), got = run(other, cpu_stream());
    for (const std::int64_t first : {0, 80, 160}) {  // groups 0, 2, 4
      CHECK(bitwise_equal(got[0].tensor().slice(1, first, first + 40),
                          want[0].tensor().slice(1, first, first + 40)));
      CHECK(bitwise_equal(got[1].tensor().slice(2, first, first + 40),
                          want[1].tensor().slice(2, first, first + 40)));
    }
  });
}

void check_thirty_runs(const Case& c, DType dtype) {
  const Data data(c, dtype);
  const auto first = run(data, cpu_stream(1));
  for (int i = 0; i < 30; ++i) {
    const auto again = run(data, cpu_stream(2 + i % 5));
    for (std::size_t o = 0; o < first.size(); ++o) REQUIRE(bitwise_equal(first[o], again[o]));
  }
}

TEST_CASE("sparse_attention: the same bits in thirty runs on more threads than cores",
          "[sparse_attention]") {
  // One head and several slabs of keys: every share of dq has to wait for its turn.
  check_thirty_runs({1, 300, 5000, 1, 16, Blocks::kRagged, kRaggedGroups, 0.1}, DType::kF32);
}

TEST_CASE("sparse_attention: offsets beyond 2^31 elements", "[sparse_attention]") {
  // Rows of k and v lie 2^30 floats apart in memory that is only reserved.
  constexpr std::int64_t kRow = std::int64_t{1} << 30, D = 16;
  constexpr std::size_t kBytes = (3 * static_cast<std::size_t>(kRow) + D) * sizeof(float);
  const auto reserve = [] {
    void* const at = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return std::shared_ptr<void>(at == MAP_FAILED ? nullptr : at,
                                 [](void* p) { if (p != nullptr) munmap(p, kBytes); });
  };
  const Case c{1, 6, 4, 1, D, Blocks::kSingle, 3, 1};
  const Data near(c);
  Data far(c);
  std::vector<Tensor> outputs;
  for (Tensor* t : {&far.k, &far.v, static_cast<Tensor*>(nullptr), static_cast<Tensor*>(nullptr)}) {
    const std::shared_ptr<void> memory = reserve();
    if (memory == nullptr) {
      WARN("SKIPPED: no 12 GiB of address space");
      return;
    }
    const Tensor rows = Tensor(memory.get(), DType::kF32, {1, 4, kRow / D, D}, {}, memory)
                            .slice(2, 0, 1);
    if (t == nullptr) {
      outputs.push_back(rows);
      continue;
    }
    const std::vector<double> from = values(*t);
    std::size_t e = 0;
    for_each_element(rows,
                     [&](std::int64_t at, auto, auto) { write_element(rows, at, from[e++]); });
    *t = rows;
  }
  for_each_isa([&] {
    const auto want = run(near, cpu_stream());
    const Output o(near.q.shape()), lse({1, 1, 6}), dq(near.q.shape()), delta({1, 1, 6});
    forward(tested_kernels(), far, far.selection, o, lse, cpu_stream());
    backward(tested_kernels(), far, far.selection, o, lse, {dq, outputs[0], outputs[1], delta},
             cpu_stream());
    CHECK(bitwise_equal(o, want[0]));
    CHECK(bitwise_equal(dq, want[2]));
    CHECK(bitwise_equal(outputs[0], want[3]));
    CHECK(bitwise_equal(outputs[1], want[4]));
  });
}

TEST_CASE("sparse_attention: the cpu backend refuses bf16", "[sparse_attention]") {
  const Data data({1, 4, 5, 1, 8}, DType::kBF16);
  check_refuses_bf16([&] { run(data, cpu_stream()); });
}

// --- bf16, which only the GPU computes in -------------------------------------------------------

constexpr DType kBf16 = DType::kBF16;

TEST_CASE("sparse_attention: bf16 of any head dim, block, and group on the GPU",
          "[sparse_attention][gpu]") {
  DSV_NEEDS_GPU();
  for (const std::int64_t D : {8, 17, 64, 72, 96, 128, 250, 256}) {
    for (const Blocks blocks : {Blocks::kSingle, Blocks::kSixteen, Blocks::kRagged}) {
      check_case({1, 150, 200, 1, D, blocks, 64, 0.4}, kBf16);
      check_case({2, 70, 133, 2, D, blocks, kRaggedGroups, 0.3, true}, kBf16);
      check_case({1, 200, 330, 1, D, blocks, 128, 0.6}, kBf16);
    }
  }
}

TEST_CASE("sparse_attention: bf16 activations of any scale on the GPU",
          "[sparse_attention][gpu]") {
  DSV_NEEDS_GPU();
  for (const double scale : {1.0, 8.0, 32.0, 128.0}) {
    check_case({1, 70, 250, 1, 64, Blocks::kRagged, 64, 0.4, false, scale, 1}, kBf16);
    check_case({1, 100, 260, 1, 64, Blocks::kSixteen, 64, 0.4, false, 1, scale}, kBf16);
    check_case({1, 140, 230, 1, 128, Blocks::kSixteen, 128, 0.4, false, scale, scale}, kBf16);
  }
}

TEST_CASE("sparse_attention: bf16 of single, missing, and unselected keys on the GPU",
          "[sparse_attention][gpu]") {
  DSV_NEEDS_GPU();
  check_nothing_selected(kBf16);
  check_patterns(kBf16);
  check_others_keys(kBf16);
  check_unselected({1, 40, 300, 2, 64, Blocks::kSingle, 16, 0.1}, kBf16);
  check_unselected({2, 40, 300, 1, 128, Blocks::kRagged, 32, 0.1}, kBf16);
  for (const Blocks blocks : {Blocks::kSingle, Blocks::kRagged}) {
    check_data(aligned({1, 20, 193, 1, 16, blocks, 7, 0.4}, -200, 0.05, kBf16));
  }
  check_case({1, 0, 5, 1, 64}, kBf16);
  check_case({2, 4, 0, 2, 64}, kBf16);
}

TEST_CASE("sparse_attention: bf16, the same bits in thirty runs on the GPU",
          "[sparse_attention][gpu]") {
  DSV_NEEDS_GPU();
  on_gpu([] {
    check_thirty_runs({2, 300, 600, 3, 64, Blocks::kRagged, kRaggedGroups, 0.3}, kBf16);
    check_thirty_runs({1, 256, 512, 2, 128, Blocks::kSingle, 128, 0.3}, kBf16);
  });
}

}  // namespace
}  // namespace dsv::test
