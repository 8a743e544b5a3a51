// The nearest of a list of names: what "did you mean" in messages proposes.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace dsv {

// Insertions, deletions, substitutions, and swaps of neighbours that turn a into b (optimal string
// alignment), case ignored. Names longer than 64 characters count as infinitely far.
std::size_t edit_distance(std::string_view a, std::string_view b);

// The candidate with the smallest distance, the first of equals; "" when none is near enough to be
// meant (more than a third of the name's length, at least one edit), unless one of the two names is
// a prefix of the other.
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

// "a, b, c".
std::string join_names(const std::vector<std::string>& names);

}  // namespace dsv
