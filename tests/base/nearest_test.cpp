#include "dsv/base/nearest.h"

#include <limits>

#include "support/catch.h"

using namespace dsv;

TEST_CASE("edit distance counts insertions, deletions, substitutions, and swaps", "[nearest]") {
  CHECK(edit_distance("", "") == 0);
  CHECK(edit_distance("abc", "") == 3);
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("kitten", "sitting") == 3);
  CHECK(edit_distance("setps", "steps") == 1);
  CHECK(edit_distance("LR", "lr") == 0);
  CHECK(edit_distance("ca", "abc") == 3);  // optimal string alignment, not full Damerau
  CHECK(edit_distance(std::string(65, 'a'), "a") == std::numeric_limits<std::size_t>::max());
  CHECK(edit_distance(std::string(64, 'a'), std::string(64, 'b')) == 64);
}

TEST_CASE("the nearest name is near enough to be meant", "[nearest]") {
  const std::vector<std::string> names{"num_layers", "num_heads", "head_dim", "lr", "warmup_steps"};
  CHECK(nearest_name("num_layer", names) == "num_layers");
  CHECK(nearest_name("nmu_heads", names) == "num_heads");
  CHECK(nearest_name("warmup", names) == "warmup_steps");  // a prefix
  CHECK(nearest_name("l", names) == "lr");
  CHECK(nearest_name("colour", names).empty());
  CHECK(nearest_name("", names).empty());
  CHECK(nearest_name("x", {}).empty());
  CHECK(nearest_name(std::string(1000, 'x'), names).empty());
  CHECK(join_names({"a", "b"}) == "a, b");
}
