// Loops over f32 arrays one vector at a time. The tail runs the same vector code on a padded copy:
// what an element becomes never depends on its position or on where a thread's share ends.
#if defined(DSV_KERNELS_CPU_MAP_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef DSV_KERNELS_CPU_MAP_INL_H
#undef DSV_KERNELS_CPU_MAP_INL_H
#else
#define DSV_KERNELS_CPU_MAP_INL_H
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <cstring>

HWY_BEFORE_NAMESPACE();
namespace dsv::kernels::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using VecF32 = hn::Vec<F32>;

// The elements [i, i + lanes) of any array.
struct Whole {
  std::int64_t i;
  HWY_INLINE VecF32 load(const float* from) const { return hn::LoadU(F32(), from + i); }
  HWY_INLINE void store(VecF32 v, float* to) const { hn::StoreU(v, F32(), to + i); }
  HWY_INLINE VecF32 keep(VecF32 v) const { return v; }
};

// The last `count` < lanes elements from i; lanes beyond them read as 0 and are not written.
struct Tail {
  std::int64_t i;
  std::size_t count;
  HWY_INLINE VecF32 load(const float* from) const {
    HWY_ALIGN float lanes[hn::MaxLanes(F32())] = {};
    std::memcpy(lanes, from + i, count * sizeof(float));
    return hn::Load(F32(), lanes);
  }
  HWY_INLINE void store(VecF32 v, float* to) const {
    HWY_ALIGN float lanes[hn::MaxLanes(F32())];
    hn::Store(v, F32(), lanes);
    std::memcpy(to + i, lanes, count * sizeof(float));
  }
  // v with 0 in the lanes beyond the last element: for sums.
  HWY_INLINE VecF32 keep(VecF32 v) const { return hn::IfThenElseZero(hn::FirstN(F32(), count), v); }
};

// body(at) for all of [0, n), where `at` loads and stores vectors of any array of n elements.
template <typename Body>
HWY_INLINE void for_each_vector(std::int64_t n, const Body& body) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(F32()));
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(Whole{i});
  if (i < n) body(Tail{i, static_cast<std::size_t>(n - i)});
}

// The same with four accumulators in turn, so that a sum need not wait for its last addition:
// body(at, accumulators[k]).
template <typename Accumulator, typename Body>
HWY_INLINE void accumulate_vectors(std::int64_t n, Accumulator (&accumulators)[4],
                                   const Body& body) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(F32()));
  std::int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    body(Whole{i}, accumulators[0]);
    body(Whole{i + lanes}, accumulators[1]);
    body(Whole{i + 2 * lanes}, accumulators[2]);
    body(Whole{i + 3 * lanes}, accumulators[3]);
  }
  for (; i + lanes <= n; i += lanes) body(Whole{i}, accumulators[0]);
  if (i < n) body(Tail{i, static_cast<std::size_t>(n - i)}, accumulators[0]);
}

HWY_INLINE float sum_of_lanes(VecF32 v) {
  return hn::GetLane(hn::SumOfLanes(F32(), v));
}
HWY_INLINE float sum_of_lanes(const VecF32 (&v)[4]) {
  return sum_of_lanes(hn::Add(hn::Add(v[0], v[1]), hn::Add(v[2], v[3])));
}

}  // namespace dsv::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
