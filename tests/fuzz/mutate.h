// Small random changes that keep most of a text's structure, so that what is made of a valid input
// gets past the first checks and meets the later ones.
#pragma once

#include <string>
#include <vector>

#include "random.h"

namespace dsv::fuzz {

constexpr std::size_t kMaxMutatedBytes = 8192;

// One to eight changes to one of the seeds: flipped bits, cuts, repetitions, splices of two seeds,
// numbers replaced by boundary values, tokens dropped, doubled, swapped, wrapped, and exchanged for
// words. The result has at most kMaxMutatedBytes bytes.
std::string mutate(const std::vector<std::string>& seeds, const std::vector<std::string>& words,
                   Random& random);

}  // namespace dsv::fuzz
