// Philox4x32-10, the counter-based generator (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). The engine holds no generator state: every random number is a pure function
// of (seed, purpose, step, sample, element), so it is the same under any layout and after any
// resume.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "dsv/base/box_muller.h"

namespace dsv {

// What a number is for; values are part of the reproducibility contract and must not be renumbered.
enum class RngPurpose : std::uint32_t {
  kInit = 1,      // parameter initialisation: step 0, sample = FNV-1a of the parameter's name
  kNoise = 2,     // ε of flow matching
  kTimestep = 3,  // t
  kCfgDropout = 4,
  kShuffle = 5,
  kBucket = 6,
  kHeldOutNoise = 7,
  kSampler = 8,  // initial noise of generation
  kText = 9,     // frozen random word embeddings
  kTest = 10,
  kSynth = 11,  // synthetic clips
};

struct PhiloxKey {
  std::uint64_t seed = 0;
  RngPurpose purpose = RngPurpose::kTest;
  std::uint64_t step = 0;
  std::uint64_t sample = 0;  // global sample id
};

using PhiloxBlock = std::array<std::uint32_t, 4>;

// Ten rounds on (counter, key).
constexpr PhiloxBlock philox4x32(PhiloxBlock ctr, std::uint32_t k0, std::uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = 0xD2511F53ull * ctr[0];
    const std::uint64_t p1 = 0xCD9E8D57ull * ctr[2];
    ctr = {static_cast<std::uint32_t>(p1 >> 32) ^ ctr[1] ^ k0, static_cast<std::uint32_t>(p1),
           static_cast<std::uint32_t>(p0 >> 32) ^ ctr[3] ^ k1, static_cast<std::uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return ctr;
}

// The derived two-word key and upper counter words of a PhiloxKey. (seed, purpose, step) are mixed
// into the key by one Philox call each, the sample id fills two counter words, the element the
// rest.
struct PhiloxStream {
  std::uint32_t k0 = 0, k1 = 0;
  std::uint64_t sample = 0;

  constexpr explicit PhiloxStream(const PhiloxKey& key) : sample(key.sample) {
    const PhiloxBlock mixed = philox4x32(
        {static_cast<std::uint32_t>(key.step), static_cast<std::uint32_t>(key.step >> 32),
         static_cast<std::uint32_t>(key.purpose), 0x64737600u},
        static_cast<std::uint32_t>(key.seed), static_cast<std::uint32_t>(key.seed >> 32));
    k0 = mixed[0];
    k1 = mixed[1];
  }

  // Four words for block `index`; element e of a stream is word e % 4 of block e / 4.
  constexpr PhiloxBlock block(std::uint64_t index) const {
    return philox4x32(
        {static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
         static_cast<std::uint32_t>(sample), static_cast<std::uint32_t>(sample >> 32)},
        k0, k1);
  }
  constexpr std::uint32_t word(std::uint64_t element) const {
    return block(element / 4)[element % 4];
  }
};

// (0, 1): 23 bits, centred in their interval, so never 0 or 1 and exact in f32.
constexpr double philox_uniform(std::uint32_t word) {
  return (static_cast<double>(word >> 9) + 0.5) * 0x1p-23;
}

// Standard normals by Box-Muller on word pairs (0,1) and (2,3), in double; element e uses pair
// (e % 4) / 2, cosine for even e and sine for odd e. The same bits on every machine (box_muller.h).
inline std::array<double, 4> philox_normal4(const PhiloxBlock& words) {
  std::array<double, 4> out{};
  for (std::size_t pair = 0; pair < 2; ++pair) {
    const double radius = std::sqrt(-2.0 * log_of_uniform(philox_uniform(words[2 * pair])));
    const auto [cos, sin] = circle_of_uniform(philox_uniform(words[2 * pair + 1]));
    out[2 * pair] = radius * cos;
    out[2 * pair + 1] = radius * sin;
  }
  return out;
}

// A single uniform / normal, for host-side decisions.
inline double philox_uniform(const PhiloxKey& key, std::uint64_t element = 0) {
  return philox_uniform(PhiloxStream(key).word(element));
}
inline double philox_normal(const PhiloxKey& key, std::uint64_t element = 0) {
  return philox_normal4(PhiloxStream(key).block(element / 4))[element % 4];
}

// FNV-1a, for turning names into sample ids and buckets; stable across platforms.
constexpr std::uint64_t fnv1a(const char* text, std::size_t size) {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  for (std::size_t i = 0; i < size; ++i) {
    hash = (hash ^ static_cast<unsigned char>(text[i])) * 0x100000001b3ull;
  }
  return hash;
}

}  // namespace dsv
