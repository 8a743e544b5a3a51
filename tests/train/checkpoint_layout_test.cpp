#include "dsv/train/checkpoint_layout.h"

#include "dsv/data/safetensors.h"
#include "support/catch.h"

namespace dsv::train {
namespace {

LogicalArray array_of(std::vector<ShardPiece> pieces, std::int64_t total = 100) {
  return {"weights", DType::kF32, total, std::move(pieces)};
}

std::string coverage_error(const LogicalArray& array) {
  try {
    check_coverage(array, ExitCode::kCorruptInput);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

TEST_CASE("even_share tiles every array over every world", "[checkpoint]") {
  for (const std::int64_t total : {0, 1, 15, 16, 17, 31, 32, 100, 1000, 12345}) {
    for (int size = 1; size <= 9; ++size) {
      for (const std::int64_t align : {1, 16, 64}) {
        std::int64_t at = 0, longest = 0, shortest = total;
        for (int rank = 0; rank < size; ++rank) {
          const ElementRange share = even_share(total, rank, size, align);
          REQUIRE(share.begin == at);
          REQUIRE(share.end >= share.begin);
          REQUIRE((share.begin % align == 0 || share.begin == total));
          longest = std::max(longest, share.end - share.begin);
          shortest = std::min(shortest, share.end - share.begin);
          at = share.end;
        }
        REQUIRE(at == total);
        REQUIRE(longest - shortest <= align + (total % align == 0 ? 0 : align));
      }
    }
  }
}

TEST_CASE("coverage names the array and the elements", "[checkpoint]") {
  CHECK(coverage_error(array_of({{0, 40, 0}, {40, 100, 1}})).empty());
  CHECK(coverage_error(array_of({}, 0)).empty());
  CHECK_THAT(coverage_error(array_of({})),
             Contains("'weights': elements [0, 100) are in no shard"));
  CHECK_THAT(coverage_error(array_of({{0, 40, 0}, {50, 100, 1}})),
             Contains("[40, 50) are in no shard"));
  CHECK_THAT(coverage_error(array_of({{0, 40, 0}})), Contains("[40, 100) are in no shard"));
  CHECK_THAT(coverage_error(array_of({{0, 60, 2}, {40, 100, 5}})),
             Contains("[40, 60) are in shard 2 and in shard 5"));
  CHECK_THAT(coverage_error(array_of({{0, 100, 0}, {20, 30, 1}})),
             Contains("[20, 30) are in shard 0"));
  CHECK_THAT(coverage_error(array_of({{0, 101, 0}})), Contains("holds [0, 101) of 100"));
  CHECK_THAT(coverage_error(array_of({{-1, 100, 0}})), Contains("holds [-1, 100)"));
  CHECK_THAT(coverage_error(array_of({{0, 0, 0}, {0, 100, 0}})), Contains("holds [0, 0)"));
  CHECK_THAT(coverage_error(array_of({}, -1)), Contains("not possible"));
  CHECK_THAT(coverage_error(array_of({}, INT64_MAX / 2)), Contains("not possible"));
}

TEST_CASE("planned shards are safetensors files with aligned pieces", "[checkpoint]") {
  Manifest manifest;
  manifest.meta.step = 7;
  manifest.meta.run_id = "r \"quoted\"";
  manifest.save_id = "0123";
  manifest.files.resize(2);
  manifest.arrays = {{"d", DType::kF64, 3, {{0, 2, 1}, {2, 3, 0}}},
                     {"f", DType::kF32, 9, {{0, 5, 0}, {5, 9, 1}}},
                     {"h", DType::kBF16, 3, {{0, 3, 1}}},
                     {"u", DType::kU8, 5, {{0, 5, 0}}}};
  const std::vector<ShardPlan> plans = plan_shards(manifest);
  REQUIRE(plans.size() == 2);
  for (int f = 0; f < 2; ++f) {
    const ShardPlan& plan = plans[static_cast<std::size_t>(f)];
    CHECK(plan.head.size() % 64 == 0);
    const data::SafetensorsHeader header = data::parse_safetensors_header(
        plan.head, static_cast<std::uint64_t>(plan.num_bytes), shard_name(f));
    std::size_t at = 0;
    for (const LogicalArray& array : manifest.arrays) {
      for (const ShardPiece& piece : array.pieces) {
        if (piece.file != f) continue;
        REQUIRE(at < header.tensors.size());
        CHECK(header.tensors[at].name == piece_name(array.name, piece.begin, piece.end));
        CHECK(header.tensors[at].offset == piece.offset);
        CHECK(piece.offset % size_of(array.dtype) == 0);
        ++at;
      }
    }
    CHECK(at == header.tensors.size());
    CHECK(header.metadata.size() == 6);
    // Planned alone it is the same.
    Manifest copy = manifest;
    CHECK(plan_shards(copy, f)[static_cast<std::size_t>(f)].head == plan.head);
  }
  CHECK(shard_name(3) == "rank_00003.safetensors");
  // Sizes and offsets are the same without the heads, also where names need escapes.
  manifest.arrays[1].name = "f \"quoted\" \\ ü";
  Manifest sized = manifest;
  const std::vector<ShardPlan> again = plan_shards(manifest);
  const std::vector<std::int64_t> sizes = plan_sizes(sized);
  REQUIRE(sizes.size() == 2);
  for (std::size_t f = 0; f < 2; ++f) CHECK(sizes[f] == again[f].num_bytes);
  for (std::size_t a = 0; a < sized.arrays.size(); ++a) {
    for (std::size_t p = 0; p < sized.arrays[a].pieces.size(); ++p) {
      CHECK(sized.arrays[a].pieces[p].offset == manifest.arrays[a].pieces[p].offset);
    }
  }
}

}  // namespace
}  // namespace dsv::train
