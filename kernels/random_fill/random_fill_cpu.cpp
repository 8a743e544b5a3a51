// Philox and Box-Muller with one block of four numbers per lane. Every operation is the one that
// base/philox.h and base/box_muller.h do, in the same order, so the bits are theirs: this file is
// compiled without contraction to fused multiply-adds (kernels/CMakeLists.txt).
#define HWY_TARGET_INCLUDE "random_fill/random_fill_cpu.cpp"
#include "cpu/targets.h"

#include <hwy/foreach_target.h>

#include <algorithm>

#include "cpu/arguments.h"
#include "cpu/map-inl.h"
#include "cpu/parallel.h"
#include "tables/entries.h"

#ifndef DSV_RANDOM_FILL_TYPES
#define DSV_RANDOM_FILL_TYPES
namespace dsv::kernels::cpu {
struct BlockFill {
  PhiloxStream stream;
  RandomKind kind;
  double mean, std;
};
}  // namespace dsv::kernels::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR

using U64 = hn::ScalableTag<std::uint64_t>;  // lanes hold 32-bit words
using F64 = hn::ScalableTag<double>;
using VecU64 = hn::Vec<U64>;
using VecF64 = hn::Vec<F64>;

struct Words {
  VecU64 word[4];
};

HWY_INLINE VecU64 multiply_words(VecU64 a, std::uint64_t b) {
  const hn::Repartition<std::uint32_t, U64> d32;
  return hn::MulEven(hn::BitCast(d32, a), hn::BitCast(d32, hn::Set(U64(), b)));
}

// Blocks first, first + 1, ….
HWY_INLINE Words philox(const PhiloxStream& stream, std::uint64_t first) {
  const U64 d;
  const VecU64 low = hn::Set(d, 0xffffffffu), index = hn::Add(hn::Set(d, first), hn::Iota(d, 0));
  Words w{{hn::And(index, low), hn::ShiftRight<32>(index), hn::Set(d, stream.sample & 0xffffffffu),
           hn::Set(d, stream.sample >> 32)}};
  std::uint32_t k0 = stream.k0, k1 = stream.k1;
  for (int round = 0; round < 10; ++round) {
    const VecU64 p0 = multiply_words(w.word[0], 0xD2511F53u);
    const VecU64 p1 = multiply_words(w.word[2], 0xCD9E8D57u);
    const VecU64 next0 =
        hn::Xor(hn::Xor(hn::ShiftRight<32>(p1), w.word[1]), hn::Set(d, std::uint64_t{k0}));
    const VecU64 next2 =
        hn::Xor(hn::Xor(hn::ShiftRight<32>(p0), w.word[3]), hn::Set(d, std::uint64_t{k1}));
    w = {{next0, hn::And(p1, low), next2, hn::And(p0, low)}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return w;
}

// A number below 2^52 as a double: put into the bits of 2^52, which is taken away again.
HWY_INLINE VecF64 to_double(VecU64 x) {
  const VecF64 base = hn::Set(F64(), 0x1p52);
  return hn::Sub(hn::BitCast(F64(), hn::Or(x, hn::BitCast(U64(), base))), base);
}

HWY_INLINE VecF64 uniform(VecU64 word) {
  const VecF64 centred = hn::Add(to_double(hn::ShiftRight<9>(word)), hn::Set(F64(), 0.5));
  return hn::Mul(centred, hn::Set(F64(), 0x1p-23));
}

template <std::size_t n>
HWY_INLINE VecF64 polynomial(VecF64 x, const std::array<double, n>& c) {
  VecF64 sum = hn::Set(F64(), c[n - 1]);
  for (std::size_t i = n - 1; i-- > 0;) sum = hn::Add(hn::Mul(sum, x), hn::Set(F64(), c[i]));
  return sum;
}

HWY_INLINE VecF64 log_of_uniform(VecF64 u) {
  using namespace box_muller;
  const VecU64 shifted = hn::Add(hn::BitCast(U64(), u), hn::Set(U64(), kOne - kLowestM));
  const VecF64 e = hn::Sub(to_double(hn::ShiftRight<52>(shifted)), hn::Set(F64(), 1023));
  const VecU64 fraction = hn::And(shifted, hn::Set(U64(), 0xfffffffffffffu));
  const VecF64 m = hn::BitCast(F64(), hn::Add(fraction, hn::Set(U64(), kLowestM)));
  const VecF64 one = hn::Set(F64(), 1);
  const VecF64 s = hn::Div(hn::Sub(m, one), hn::Add(m, one)), s2 = hn::Mul(s, s);
  const VecF64 small =
      hn::Add(hn::Mul(hn::Mul(s, s2), polynomial(s2, kLog)), hn::Mul(e, hn::Set(F64(), kLn2Lo)));
  return hn::Add(hn::Mul(e, hn::Set(F64(), kLn2Hi)), hn::Add(hn::Add(s, s), small));
}

struct Circle {
  VecF64 cos, sin;
};
HWY_INLINE Circle circle_of_uniform(VecF64 u) {
  using namespace box_muller;
  const VecF64 magic = hn::Set(F64(), kMagic), one = hn::Set(F64(), 1);
  const VecF64 shifted = hn::Add(hn::Mul(hn::Set(F64(), 4), u), magic);
  const VecU64 quarter = hn::BitCast(U64(), shifted);  // its lowest two bits
  const VecF64 r = hn::Sub(u, hn::Mul(hn::Set(F64(), 0.25), hn::Sub(shifted, magic)));
  const VecF64 r2 = hn::Mul(r, r);
  const VecF64 sin = hn::Mul(r, polynomial(r2, kSin));
  const VecF64 cos = hn::Add(one, hn::Mul(r2, polynomial(r2, kCos)));
  const auto odd = hn::MaskFromVec(
      hn::BitCast(F64(), hn::Sub(hn::Zero(U64()), hn::And(quarter, hn::Set(U64(), 1)))));
  const VecU64 second = hn::Set(U64(), 2);
  const VecF64 sign_x =
      hn::BitCast(F64(), hn::ShiftLeft<62>(hn::And(hn::Add(quarter, hn::Set(U64(), 1)), second)));
  const VecF64 sign_y = hn::BitCast(F64(), hn::ShiftLeft<62>(hn::And(quarter, second)));
  return {hn::Xor(hn::IfThenElse(odd, sin, cos), sign_x),
          hn::Xor(hn::IfThenElse(odd, cos, sin), sign_y)};
}

// Fills whole blocks from `first` on, as many as whole vectors take; returns how many.
std::int64_t fill_blocks(const BlockFill& fill, std::uint64_t first, std::int64_t num_blocks,
                         float* y) {
  const hn::Rebind<float, F64> narrow;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(F64()));
  const VecF64 mean = hn::Set(F64(), fill.mean), std = hn::Set(F64(), fill.std);
  const auto scaled = [=](VecF64 z)
                          HWY_ATTR { return hn::DemoteTo(narrow, hn::Add(mean, hn::Mul(std, z))); };
  std::int64_t done = 0;
  for (; done + lanes <= num_blocks; done += lanes) {
    const Words w = philox(fill.stream, first + static_cast<std::uint64_t>(done));
    VecF64 z[4];
    if (fill.kind == RandomKind::kUniform) {
      for (int i = 0; i < 4; ++i) z[i] = uniform(w.word[i]);
    } else {
      for (int i = 0; i < 4; i += 2) {
        const VecF64 radius =
            hn::Sqrt(hn::Mul(hn::Set(F64(), -2.0), log_of_uniform(uniform(w.word[i]))));
        const Circle circle = circle_of_uniform(uniform(w.word[i + 1]));
        z[i] = hn::Mul(radius, circle.cos);
        z[i + 1] = hn::Mul(radius, circle.sin);
      }
    }
    hn::StoreInterleaved4(scaled(z[0]), scaled(z[1]), scaled(z[2]), scaled(z[3]), narrow,
                          y + 4 * done);
  }
  return done;
}

#else  // no vectors: all blocks are left to the scalar code

std::int64_t fill_blocks(const BlockFill&, std::uint64_t, std::int64_t, float*) {
  return 0;
}

#endif

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dsv::kernels::cpu {
namespace {

HWY_EXPORT(fill_blocks);

// Numbers [element, element + count) of the stream, all of one block, into y.
void fill_part(const BlockFill& fill, std::uint64_t element, std::int64_t count, float* y) {
  const PhiloxBlock words = fill.stream.block(element / 4);
  std::array<double, 4> z{};
  if (fill.kind == RandomKind::kUniform) {
    for (std::size_t i = 0; i < 4; ++i) z[i] = philox_uniform(words[i]);
  } else {
    z = philox_normal4(words);
  }
  for (std::int64_t i = 0; i < count; ++i) {
    y[i] =
        static_cast<float>(fill.mean + fill.std * z[element % 4 + static_cast<std::uint64_t>(i)]);
  }
}

void fill_share(const BlockFill& fill, std::uint64_t element, std::int64_t n, float* y) {
  while (n > 0) {
    if (element % 4 == 0 && n >= 4) {
      const std::int64_t numbers =
          4 * HWY_DYNAMIC_DISPATCH(fill_blocks)(fill, element / 4, n / 4, y);
      element += static_cast<std::uint64_t>(numbers);
      y += numbers;
      n -= numbers;
    }
    // What no vector took: the rest of a block, or the blocks after the last vector, one by one.
    const std::int64_t count = std::min(static_cast<std::int64_t>(4 - element % 4), n);
    fill_part(fill, element, count, y);
    element += static_cast<std::uint64_t>(count);
    y += count;
    n -= count;
  }
}

}  // namespace

void random_fill(const RandomFill& args, const Stream& stream) {
  require_f32("random_fill", {&args.y});
  const BlockFill fill{.stream = PhiloxStream(args.key),
                       .kind = args.kind,
                       .mean = static_cast<double>(args.mean),
                       .std = static_cast<double>(args.std)};
  float* y = args.y.f32();
  constexpr std::int64_t kGrain = 4096;  // some 20 us of normals
  parallel_for(stream, args.y.num_elements(), kGrain,
               [&](std::int64_t begin, std::int64_t end, int) {
                 fill_share(fill, args.first_element + static_cast<std::uint64_t>(begin),
                            end - begin, y + begin);
               });
}

}  // namespace dsv::kernels::cpu
#endif
