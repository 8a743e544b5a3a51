// The selection of one group from the masses of its units, without a sort: bisection for the least
// mass that is taken, on a list of candidates that shrinks as it goes.
#if defined(DSV_KERNELS_SELECT_BLOCKS_THRESHOLD_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DSV_KERNELS_SELECT_BLOCKS_THRESHOLD_INL_H
#undef DSV_KERNELS_SELECT_BLOCKS_THRESHOLD_INL_H
#else
#define DSV_KERNELS_SELECT_BLOCKS_THRESHOLD_INL_H
#endif

#include <bit>
#include <utility>

#include "cpu/tile-inl.h"
#include "select_blocks/select_blocks_tasks.h"

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

using I32 = hn::RebindToSigned<F32>;
using VecI32 = hn::Vec<I32>;

constexpr float kNotACandidate = -1;  // in place of a mass: own units and empty ones

// What has been taken, and when that is enough.
struct Taken {
  std::int64_t keys = 0;
  double mass = 0;
  Taken plus(const Taken& more) const { return {keys + more.keys, mass + more.mass}; }
};
struct StopRule {
  std::int64_t min_keys, max_keys;
  double mass;
  bool stops(const Taken& t) const {
    return (t.keys >= min_keys && t.mass >= mass) || t.keys >= max_keys;
  }
};

// f32 sums lane by lane, brought to f64 before they are long.
class MassSum {
 public:
  HWY_INLINE MassSum() : lanes_(hn::Zero(F32())) {}
  HWY_INLINE void add(VecF32 v) {
    lanes_ = hn::Add(lanes_, v);
    if (++count_ == 32) flush();
  }
  HWY_INLINE double total() {
    flush();
    return total_;
  }

 private:
  HWY_INLINE void flush() {
    total_ += static_cast<double>(sum_of_lanes(lanes_));
    lanes_ = hn::Zero(F32());
    count_ = 0;
  }
  VecF32 lanes_;
  double total_ = 0;
  int count_ = 0;
};

HWY_INLINE double sum_of(const float* values, std::int64_t n) {  // n: whole vectors
  MassSum sum;
  for (std::int64_t i = 0; i < n; i += kLanes) sum.add(hn::LoadU(F32(), values + i));
  return sum.total();
}

// Lanes of a mask to the front, in order. Not Highway's, whose table GCC copies to the stack at
// every use where the processor has no instruction for it.
#if HWY_TARGET > HWY_AVX3
struct CompressTable {
  std::int32_t lanes[1 << kLanes][kLanes] = {};
  constexpr CompressTable() {
    for (std::int32_t mask = 0; mask < 1 << kLanes; ++mask) {
      for (std::int32_t lane = 0, at = 0; lane < kLanes; ++lane) {
        if (mask >> lane & 1) lanes[mask][at++] = lane;
      }
    }
  }
};
inline constexpr CompressTable kCompressTable;
#endif

// Candidates in the order of their index; room for one vector more than there are units.
struct Candidates {
  float* mass;
  std::int32_t* size;  // keys
  std::int64_t count = 0;

  template <typename Mask>
  HWY_INLINE void append(VecF32 m, VecI32 s, Mask mask) {
    const F32 d;
    const I32 di;
#if HWY_TARGET > HWY_AVX3
    std::uint8_t bits[8] = {};
    hn::StoreMaskBits(d, mask, bits);
    const auto order = hn::SetTableIndices(d, kCompressTable.lanes[bits[0]]);
    m = hn::TableLookupLanes(m, order);
    s = hn::BitCast(di, hn::TableLookupLanes(hn::BitCast(d, s), order));
#else
    m = hn::Compress(m, mask);
    s = hn::Compress(s, hn::RebindMask(di, mask));
#endif
    hn::StoreU(m, d, mass + count);
    hn::StoreU(s, di, size + count);
    count += static_cast<std::int64_t>(hn::CountTrue(d, mask));
  }
};

// What `split` makes of a list: what its upper part holds, where it ends and where the lower
// begins.
struct Split {
  Taken upper;
  float least_upper, most_lower;
};

// Moves candidates of at least `pivot` to `upper`, the others to `lower`, which may be `from`, in
// the order they have.
HWY_INLINE Split split(const Candidates& from, float pivot, Candidates& upper, Candidates& lower) {
  const F32 d;
  const I32 di;
  const VecF32 v_pivot = hn::Set(d, pivot);
  const VecF32 infinity = hn::Set(d, std::numeric_limits<float>::infinity());
  MassSum mass;
  VecI32 keys = hn::Zero(di);
  VecF32 least = infinity, most = hn::Set(d, kNotACandidate);
  upper.count = lower.count = 0;
  const std::int64_t count = from.count;
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const auto there = hn::FirstN(d, static_cast<std::size_t>(count - i));
    const VecF32 m = hn::LoadU(d, from.mass + i);
    const VecI32 s = hn::LoadU(di, from.size + i);
    const auto is_upper = hn::And(there, hn::Ge(m, v_pivot));
    const auto is_lower = hn::AndNot(is_upper, there);
    mass.add(hn::IfThenElseZero(is_upper, m));
    keys = hn::Add(keys, hn::IfThenElseZero(hn::RebindMask(di, is_upper), s));
    least = hn::Min(least, hn::IfThenElse(is_upper, m, infinity));
    most = hn::Max(most, hn::IfThenElseZero(is_lower, m));
    upper.append(m, s, is_upper);
    lower.append(m, s, is_lower);
  }
  return {.upper = {hn::GetLane(hn::SumOfLanes(di, keys)), mass.total()},
          .least_upper = hn::GetLane(hn::MinOfLanes(d, least)),
          .most_lower = hn::GetLane(hn::MaxOfLanes(d, most))};
}

// Units of more mass than `least` are taken, and of those of just as much the first `ties`.
struct Threshold {
  float least;
  std::int64_t ties;
};
constexpr Threshold kTakeNone{std::numeric_limits<float>::infinity(), 0};

// Candidates one after the other, the heaviest first, equal ones by rising index.
inline Threshold take_singly(const Candidates& list, const StopRule& rule, Taken& taken) {
  for (std::int64_t i = 1; i < list.count; ++i) {  // insertion: stable, and the list is short
    const float m = list.mass[i];
    const std::int32_t s = list.size[i];
    std::int64_t at = i;
    for (; at > 0 && list.mass[at - 1] < m; --at) {
      list.mass[at] = list.mass[at - 1];
      list.size[at] = list.size[at - 1];
    }
    list.mass[at] = m;
    list.size[at] = s;
  }
  Threshold out = kTakeNone;
  for (std::int64_t i = 0; i < list.count && !rule.stops(taken); ++i) {
    out.ties = list.mass[i] == out.least ? out.ties + 1 : 1;
    out.least = list.mass[i];
    taken = taken.plus({list.size[i], static_cast<double>(list.mass[i])});
  }
  return out;
}

// Equal masses: taken by index until it is enough.
inline Threshold take_equal(const Candidates& list, float mass, const StopRule& rule,
                            Taken& taken) {
  Threshold out{mass, 0};
  for (; out.ties < list.count && !rule.stops(taken); ++out.ties) {
    taken = taken.plus({list.size[out.ties], static_cast<double>(mass)});
  }
  return out;
}

// The least mass to be taken, by bisection over bits, whose order is that of numbers that are not
// negative. What is heavier than any candidate has been taken and is not enough; `low` and `high`
// are the candidates' least and most.
inline Threshold find_threshold(Candidates list, Candidates other, float low, float high,
                                const StopRule& rule, Taken& taken) {
  constexpr std::int64_t kFew = 8;
  if (rule.stops(taken)) return kTakeNone;
  while (list.count > kFew) {
    if (low == high) return take_equal(list, low, rule, taken);
    const auto low_bits = std::bit_cast<std::int32_t>(low),
               high_bits = std::bit_cast<std::int32_t>(high);
    const auto pivot = std::bit_cast<float>(low_bits + (high_bits - low_bits) / 2 + 1);
    const Candidates whole = list;
    const Split parts = split(whole, pivot, other, list);
    if (rule.stops(taken.plus(parts.upper))) {
      std::swap(list, other);
      low = parts.least_upper;
    } else {
      taken = taken.plus(parts.upper);
      high = parts.most_lower;
    }
  }
  return take_singly(list, rule, taken);
}

// --- Bits ----------------------------------------------------------------------------------------

constexpr std::uint32_t low_bits(std::int64_t n) {  // n in [0, 32]
  return n >= 32 ? ~0u : (1u << n) - 1;
}

// The lanes of 32 masses that are true, first lane lowest.
template <typename Test>
HWY_INLINE std::uint32_t bits_where(const float* mass, const Test& test) {
  std::uint8_t bytes[32 + 8] = {};
  std::uint32_t word = 0;
  if constexpr (kLanes >= 8) {
    for (std::int64_t i = 0; i < 32; i += kLanes) {
      hn::StoreMaskBits(F32(), test(hn::LoadU(F32(), mass + i)), bytes + i / 8);
    }
    std::memcpy(&word, bytes, sizeof word);
  } else {
    for (std::int64_t i = 0; i < 32; i += kLanes) {
      hn::StoreMaskBits(F32(), test(hn::LoadU(F32(), mass + i)), bytes + i);
      word |= std::uint32_t{bytes[i]} << i;
    }
  }
  return word;
}

// Bits of 32 units.
HWY_INLINE std::uint32_t unit_bits(const float* mass, Threshold& threshold) {
  const VecF32 least = hn::Set(F32(), threshold.least);
  std::uint32_t taken = bits_where(mass, [&](VecF32 m) HWY_ATTR { return hn::Gt(m, least); });
  if (threshold.ties == 0) return taken;
  std::uint32_t equal = bits_where(mass, [&](VecF32 m) HWY_ATTR { return hn::Eq(m, least); });
  for (; equal != 0 && threshold.ties > 0; --threshold.ties) {
    taken |= equal & (0 - equal);
    equal &= equal - 1;
  }
  return taken;
}

// Each of the lower eight bits four times.
constexpr std::uint32_t fourfold(std::uint32_t x) {
  x = (x | x << 12) & 0x000F000Fu;
  x = (x | x << 6) & 0x03030303u;
  x = (x | x << 3) & 0x11111111u;
  return x * 15;
}

// All words of one group: the units above the threshold and the own ones, [own_begin, own_end).
inline void write_bits(const UnitTable& units, const float* mass, Threshold threshold,
                       std::int64_t own_begin, std::int64_t own_end, std::uint32_t* bits) {
  for (std::int64_t first = 0; first < units.num_units; first += 32) {
    std::uint32_t taken = unit_bits(mass + first, threshold);
    const std::int64_t begin = std::clamp<std::int64_t>(own_begin - first, 0, 32);
    const std::int64_t end = std::clamp<std::int64_t>(own_end - first, 0, 32);
    taken |= low_bits(end) & ~low_bits(begin);
    if (units.unit == 1) {
      bits[first / 32] = taken & units.there[first / 32];
      continue;
    }
    for (std::int64_t i = 0, word = first / 8; i < 4 && word < units.num_words; ++i, ++word) {
      bits[word] = fourfold(taken >> 8 * i & 0xFF) & units.there[word];
    }
  }
}

// --- A group -------------------------------------------------------------------------------------

// What a group takes; `mass` holds padded_units masses, 0 beyond the last unit, and is used up.
inline void select_group(const UnitTable& units, float* mass, std::int64_t own_begin,
                         std::int64_t own_end, const StopRule& rule_of_shares, float* lists,
                         std::uint32_t* bits, std::int32_t* num_keys, float* covered) {
  const std::int64_t room = padded_units(units.num_units);
  const double total = sum_of(mass, room);
  StopRule rule = rule_of_shares;
  rule.mass *= total;
  Taken taken;
  for (std::int64_t u = own_begin; u < own_end; ++u) {
    taken = taken.plus({units.size[u], static_cast<double>(mass[u])});
    mass[u] = kNotACandidate;
  }
  for (std::int64_t u = 0; units.any_empty && u < units.num_units; ++u) {
    if (units.size[u] == 0) mass[u] = kNotACandidate;
  }
  std::fill(mass + units.num_units, mass + room, kNotACandidate);
  Candidates list{.mass = lists, .size = reinterpret_cast<std::int32_t*>(lists + room)};
  const Candidates other{.mass = lists + 2 * room,
                         .size = reinterpret_cast<std::int32_t*>(lists + 3 * room)};
  const VecF32 zero = hn::Zero(F32());
  VecF32 least = hn::Set(F32(), std::numeric_limits<float>::infinity()), most = zero;
  for (std::int64_t u = 0; u < room; u += kLanes) {
    const VecF32 m = hn::LoadU(F32(), mass + u);
    const auto is_candidate = hn::Ge(m, zero);
    least = hn::IfThenElse(is_candidate, hn::Min(least, m), least);
    most = hn::Max(most, m);
    list.append(m, hn::LoadU(I32(), units.size + u), is_candidate);
  }
  const Threshold threshold = find_threshold(list, other, hn::GetLane(hn::MinOfLanes(F32(), least)),
                                             hn::GetLane(hn::MaxOfLanes(F32(), most)), rule, taken);
  write_bits(units, mass, threshold, own_begin, own_end, bits);
  *num_keys = static_cast<std::int32_t>(taken.keys);
  *covered = total > 0 ? static_cast<float>(taken.mass / total) : 0.0f;
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
