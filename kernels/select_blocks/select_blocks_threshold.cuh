// The selection of one group by one warp, without a sort: bisection for the least mass that is
// taken, over all units in memory while the candidates are many, then over a few in registers.
// Counts are integers and sums f64 in a fixed order.
#pragma once

#include "select_blocks/select_blocks_views.cuh"

namespace dsv::kernels::cuda {

constexpr int kFewCandidates = 256;  // of a warp, in shared memory once and then in registers
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kNotACandidate = -1;  // in place of a mass: own units and empty ones

struct FewCandidates {
  float mass[kFewCandidates];
  int size[kFewCandidates];  // keys
};

// What has been taken, and when that is enough.
struct Taken {
  int keys = 0;
  double mass = 0;
};
struct StopRule {
  int min_keys, max_keys;
  double mass;
  __device__ bool stops(int keys, double m) const {
    return (keys >= min_keys && m >= mass) || keys >= max_keys;
  }
};

// What lies at or above a pivot, and the candidates next to it on either side; summed over the
// warp.
class Split {
 public:
  __device__ void add(float m, int size, float low, float pivot, float high) {
    const bool is_upper = m >= pivot && m <= high, is_lower = m >= low && m < pivot;
    upper_.keys += is_upper ? size : 0;
    upper_.mass += is_upper ? static_cast<double>(m) : 0.0;
    num_upper_ += is_upper;
    num_lower_ += is_lower;
    if (is_upper) least_upper_ = min(least_upper_, __float_as_uint(m));
    if (is_lower) most_lower_ = max(most_lower_, __float_as_uint(m));
  }
  __device__ void sum_over_warp() {
    upper_.keys = __reduce_add_sync(kAllLanes, upper_.keys);
    upper_.mass = warp_sum(upper_.mass);
    num_upper_ = __reduce_add_sync(kAllLanes, num_upper_);
    num_lower_ = __reduce_add_sync(kAllLanes, num_lower_);
    least_upper_ = __reduce_min_sync(kAllLanes, least_upper_);
    most_lower_ = __reduce_max_sync(kAllLanes, most_lower_);
  }
  __device__ const Taken& upper() const { return upper_; }
  __device__ int num_upper() const { return num_upper_; }
  __device__ int num_lower() const { return num_lower_; }
  __device__ float least_upper() const { return __uint_as_float(least_upper_); }
  __device__ float most_lower() const { return __uint_as_float(most_lower_); }

 private:
  Taken upper_;
  int num_upper_ = 0, num_lower_ = 0;
  unsigned least_upper_ = 0x7f800000u, most_lower_ = 0;  // order of bits is that of numbers ≥ 0
};

// Candidates that are neither taken nor left: those of masses in [low, high].
struct Bracket {
  float low, high;
  int count;

  __device__ float pivot() const {
    const unsigned below = __float_as_uint(low), above = __float_as_uint(high);
    return __uint_as_float(below + (above - below) / 2 + 1);
  }
  // Keeps the side of the pivot where the threshold lies; what is above it is taken.
  __device__ void narrow(Split& split, const StopRule& rule, Taken& taken) {
    split.sum_over_warp();
    const Taken& upper = split.upper();
    if (rule.stops(taken.keys + upper.keys, taken.mass + upper.mass)) {
      low = split.least_upper();
      count = split.num_upper();
    } else {
      taken.keys += upper.keys;
      taken.mass += upper.mass;
      high = split.most_lower();
      count = split.num_lower();
    }
  }
};

template <typename T>
class GroupSelection {
 public:
  // `row` holds the logarithms of the group's block masses; `most` is the largest of them.
  __device__ GroupSelection(const Selection<T>& p, const GroupTile& tile, int g, float* row,
                            float most, FewCandidates& few)
      : p_(p),
        row_(row),
        few_(few),
        most_(most),
        own_first_(p.query_offset + p.group_start[g]),
        own_end_(p.query_offset + p.group_start[g + 1]),
        lane_(static_cast<int>(threadIdx.x) % kWarp) {
    rule_ = {.min_keys = p.min_keys[tile.h], .max_keys = p.max_keys[tile.h], .mass = 0};
    share_ = static_cast<double>(p.mass[tile.h]);
    if (own_first_ == own_end_) own_end_ = INT64_MIN;  // a group without queries has no key
  }

  __device__ void run(std::int64_t place) {
    Bracket bracket = read_masses();
    rule_.mass = share_ * total_;
    float threshold = kNotACandidate / 2;  // below every candidate: all are taken
    if (rule_.stops(taken_.keys, taken_.mass)) {
      threshold = INFINITY;
    } else if (rule_.stops(taken_.keys + all_.keys, taken_.mass + all_.mass)) {
      threshold = find_threshold(bracket);
    } else {
      taken_.keys += all_.keys;
      taken_.mass += all_.mass;
    }
    write_bits(threshold, p_.bits + place * p_.num_words);
    if (lane_ != 0) return;
    p_.num_keys[place] = taken_.keys;
    p_.covered[place] = total_ > 0 ? static_cast<float>(taken_.mass / total_) : 0.0f;
  }

 private:
  struct Keys {
    int size;
    bool own;
  };
  __device__ Keys keys_of(int u) const {
    const int first = p_.unit_first(u), end = p_.unit_first(u + 1);
    return {end - first, end > first && end > own_first_ && first < own_end_};
  }
  // exp2(log - most); 0 below the normal numbers, which are not all told apart elsewhere.
  __device__ float mass_of(float log) const {
    const float mass = most_ == kNoMass ? 0.0f : exp2f(log - most_);
    return mass < FLT_MIN ? 0.0f : mass;
  }
  __device__ float mass_of_unit(int u) const {
    if (p_.unit == 1) return mass_of(row_[u]);
    float mass = 0;
#pragma unroll
    for (int i = 0; i < kernels::kTileBlocks; ++i) {
      const int n = u * static_cast<int>(kernels::kTileBlocks) + i;
      mass += n < p_.N ? mass_of(row_[n]) : 0.0f;
    }
    return mass;
  }

  // Turns the row from logarithms of blocks into masses of units, and takes the group's own ones.
  __device__ Bracket read_masses() {
    constexpr int kBatch = 4;
    unsigned least = 0x7f800000u, most = 0;
    int count = 0, own_keys = 0, keys = 0;
    double own_mass = 0, mass = 0;
    for (int first = 0; first < p_.num_units; first += kBatch * kWarp) {
      float m[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int u = first + i * kWarp + lane_;
        m[i] = u < p_.num_units ? mass_of_unit(u) : 0.0f;
      }
      __syncwarp();  // a unit's mass may lie where another unit's blocks have been
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int u = first + i * kWarp + lane_;
        if (u >= p_.num_units) continue;
        const Keys unit = keys_of(u);
        if (unit.own) {
          own_keys += unit.size;
          own_mass += static_cast<double>(m[i]);
        } else if (unit.size > 0) {
          keys += unit.size;
          mass += static_cast<double>(m[i]);
          least = min(least, __float_as_uint(m[i]));
          most = max(most, __float_as_uint(m[i]));
          ++count;
        }
        row_[u] = unit.own || unit.size == 0 ? kNotACandidate : m[i];
      }
    }
    __syncwarp();
    taken_ = {__reduce_add_sync(kAllLanes, own_keys), warp_sum(own_mass)};
    all_ = {__reduce_add_sync(kAllLanes, keys), warp_sum(mass)};
    total_ = taken_.mass + all_.mass;
    return {__uint_as_float(__reduce_min_sync(kAllLanes, least)),
            __uint_as_float(__reduce_max_sync(kAllLanes, most)),
            __reduce_add_sync(kAllLanes, count)};
  }

  __device__ float find_threshold(Bracket bracket) {
    while (bracket.low < bracket.high && bracket.count > kFewCandidates) {
      const float pivot = bracket.pivot();
      Split split;
#pragma unroll 4
      for (int u = lane_; u < p_.num_units; u += kWarp) {
        const float m = row_[u];
        const int size = m >= pivot ? p_.unit_first(u + 1) - p_.unit_first(u) : 0;
        split.add(m, size, bracket.low, pivot, bracket.high);
      }
      bracket.narrow(split, rule_, taken_);
    }
    return bracket.low < bracket.high ? find_among_few(bracket) : bracket.low;
  }

  __device__ float find_among_few(Bracket bracket) {
    int filled = 0;
    for (int first = 0; first < p_.num_units; first += kWarp) {
      const int u = first + lane_;
      const float m = u < p_.num_units ? row_[u] : kNotACandidate;
      const bool inside = m >= bracket.low && m <= bracket.high;
      const unsigned lanes = __ballot_sync(kAllLanes, inside);
      if (inside) {
        const int at = filled + __popc(lanes & ((1u << lane_) - 1));
        few_.mass[at] = m;
        few_.size[at] = p_.unit_first(u + 1) - p_.unit_first(u);
      }
      filled += __popc(lanes);
    }
    __syncwarp();
    constexpr int kEach = kFewCandidates / kWarp;
    float mass[kEach];
    int size[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int at = i * kWarp + lane_;
      mass[i] = at < filled ? few_.mass[at] : kNotACandidate;
      size[i] = at < filled ? few_.size[at] : 0;
    }
    __syncwarp();  // the next group of this warp may fill the list again
    while (bracket.low < bracket.high) {
      const float pivot = bracket.pivot();
      Split split;
#pragma unroll
      for (int i = 0; i < kEach; ++i) split.add(mass[i], size[i], bracket.low, pivot, bracket.high);
      bracket.narrow(split, rule_, taken_);
    }
    return bracket.low;
  }

  // Which of this warp's 32 units of exactly the threshold's mass are taken: by index, until it is
  // enough.
  __device__ bool takes_equal(bool equal, int size, float threshold) {
    const unsigned lanes = __ballot_sync(kAllLanes, equal);
    if (lanes == 0 || rule_.stops(taken_.keys, taken_.mass)) return false;
    int through = equal ? size : 0;  // keys of the equal units up to this lane's
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int before = __shfl_up_sync(kAllLanes, through, offset);
      if (lane_ >= offset) through += before;
    }
    const int rank = __popc(lanes & ((1u << lane_) - 1));
    const double m = static_cast<double>(threshold);
    const bool takes = equal && !rule_.stops(taken_.keys + through - size, taken_.mass + rank * m);
    const unsigned taken = __ballot_sync(kAllLanes, takes);
    taken_.keys += __reduce_add_sync(kAllLanes, takes ? size : 0);
    taken_.mass += __popc(taken) * m;
    return takes;
  }

  // Each of the lower eight bits four times.
  __device__ static std::uint32_t fourfold(std::uint32_t x) {
    x = (x | x << 12) & 0x000F000Fu;
    x = (x | x << 6) & 0x03030303u;
    x = (x | x << 3) & 0x11111111u;
    return x * 15;
  }

  __device__ void write_bits(float threshold, std::uint32_t* bits) {
    for (int first = 0; first < p_.num_units; first += kWarp) {
      const int u = first + lane_;
      const float m = u < p_.num_units ? row_[u] : kNotACandidate;
      const Keys unit = u < p_.num_units ? keys_of(u) : Keys{0, false};
      const bool equal = takes_equal(m == threshold, unit.size, threshold);
      const std::uint32_t taken = __ballot_sync(kAllLanes, m > threshold && m >= 0) |
                                  __ballot_sync(kAllLanes, unit.own || equal);
      if (p_.unit == 1) {
        if (lane_ == 0) bits[first / 32] = taken;
        continue;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int word = first / 8 + i, n = word * 32 + lane_;
        const bool there = n < p_.N && p_.block_first(n) < p_.block_first(n + 1);
        const unsigned blocks = __ballot_sync(kAllLanes, there);
        if (lane_ == 0 && word < p_.num_words)
          bits[word] = fourfold(taken >> 8 * i & 0xFF) & blocks;
      }
    }
  }

  const Selection<T>& p_;
  float* row_;
  FewCandidates& few_;
  float most_;
  std::int64_t own_first_, own_end_;
  int lane_;
  StopRule rule_;
  double share_, total_ = 0;
  Taken taken_, all_;  // all: the candidates
};

}  // namespace dsv::kernels::cuda
