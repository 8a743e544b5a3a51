#include "dsv/train/inspect.h"

#include "dsv/data/safetensors_writer.h"
#include "support/catch.h"
#include "train/checkpoint_state.h"

namespace dsv::train {
namespace {

using namespace dsv::test;

TEST_CASE("inspect says what a checkpoint holds", "[checkpoint][inspect]") {
  const TempDir dir;
  REQUIRE(all_empty(save_one(dir.path(), small_state(), 6, 2)));
  for (const std::string& path : {dir / "step_6", dir / "step_6/", dir / "step_6/manifest.json"}) {
    const Json found = inspect(path, true);
    CHECK(found.at("kind") == Json("checkpoint"));
    CHECK(found.at("valid").as_bool());
    CHECK(found.at("step") == Json(6));
    CHECK(found.at("run_id") == Json("run-of-a-test"));
    CHECK(found.at("arrays").size() == small_state().size());
    CHECK(found.at("files").size() == 2);
    CHECK(found.at("extra").at("cursor") == Json(42));
    const std::string text = inspection_text(found);
    CHECK_THAT(text, Contains("step 6") && Contains("2 shards") &&
                         Contains("valid in every byte") && Contains("block.0/master") &&
                         Contains("1003"));
    // What --json prints is JSON again.
    CHECK(parse_json(found.dump(1), "inspection") == found);
  }
}

TEST_CASE("inspect finds flipped payload bits only when it reads them", "[checkpoint][inspect]") {
  const TempDir dir;
  REQUIRE(all_empty(save_one(dir.path(), small_state(), 6, 2)));
  const std::string shard = dir / "step_6/rank_00001.safetensors";
  std::string bytes = read_bytes(shard);
  bytes.back() = static_cast<char>(bytes.back() ^ 4);
  write_bytes(shard, bytes);
  CHECK(inspect(dir / "step_6", false).at("valid").as_bool());
  CHECK_THAT(inspection_text(inspect(dir / "step_6", false)), Contains("--verify reads all"));
  for (const std::string& path : {dir / "step_6", dir.path(), shard}) {
    const Json found = inspect(path, true);
    CHECK_FALSE(found.at("valid").as_bool());
    CHECK_THAT(found.at("problems").as_array().at(0).as_string(),
               Contains("rank_00001.safetensors': bytes [0, ") && Contains("have CRC"));
    CHECK_THAT(inspection_text(found), Contains("PROBLEM") && Contains("NOT VALID"));
  }
  CHECK(inspect(dir / "step_6", true).at("step") == Json(6));
  // Sizes and manifests are looked at in any case.
  std::filesystem::resize_file(shard, bytes.size() - 1);
  CHECK_FALSE(inspect(dir / "step_6", false).at("valid").as_bool());
  std::filesystem::remove(dir / "step_6/manifest.json");
  CHECK_FALSE(inspect(dir / "step_6", false).at("valid").as_bool());
}

TEST_CASE("inspect lists the checkpoints of a run, newest first", "[checkpoint][inspect]") {
  const TempDir run;
  const std::string dir = run / "checkpoints";
  for (const std::int64_t step : {2, 10}) REQUIRE(all_empty(save_one(dir, small_state(), step, 1)));
  std::filesystem::create_directory(dir + "/step_11.tmp-0");
  std::filesystem::resize_file(dir + "/step_10/rank_00000.safetensors", 3);
  for (const std::string& path : {run.path(), dir}) {
    const Json found = inspect(path, true);
    CHECK(found.at("kind") == Json("checkpoints"));
    CHECK_FALSE(found.at("valid").as_bool());
    REQUIRE(found.at("checkpoints").size() == 2);
    CHECK_FALSE(found.at("checkpoints").as_array()[0].at("valid").as_bool());
    CHECK(found.at("checkpoints").as_array()[1].at("step") == Json(2));
    CHECK_THAT(inspection_text(found), Contains("step_11.tmp-0: not used") && Contains("step 2, "));
  }
}

TEST_CASE("inspect reads any safetensors file", "[checkpoint][inspect]") {
  const TempDir dir;
  const std::string path = dir / "weights.safetensors";
  float values[6] = {0, 1, 2, 3, 4, 5};
  data::SafetensorsWriter writer;
  writer.set_metadata("format", "pt");
  writer.add("a.weight", Tensor(values, DType::kF32, Shape{2, 3}));
  writer.write(path);
  Json found = inspect(path, true);
  CHECK(found.at("kind") == Json("safetensors"));
  CHECK(found.at("valid").as_bool());
  CHECK(found.at("bytes") == Json(24));
  CHECK(found.at("non_finite").size() == 0);
  CHECK(found.at("crc32c").as_string().size() == 8);
  CHECK_THAT(inspection_text(found), Contains("a.weight [2,3]") && Contains("format: pt"));

  values[4] = std::nanf("");
  values[5] = HUGE_VALF;
  writer.write(path);
  found = inspect(path, true);
  CHECK(found.at("non_finite").at("a.weight") == Json(2));
  CHECK_THAT(inspection_text(found), Contains("2 values that are not finite in a.weight"));

  std::filesystem::resize_file(path, 20);
  CHECK_FALSE(inspect(path, false).at("valid").as_bool());
}

TEST_CASE("inspect refuses what it does not know", "[checkpoint][inspect]") {
  const TempDir dir;
  write_bytes(dir / "notes.txt", "x");
  const auto code = [](const std::string& path) {
    try {
      inspect(path, true);
    } catch (const Error& error) {
      return error.code();
    }
    return ExitCode::kOk;
  };
  CHECK(code(dir / "absent") == ExitCode::kIo);
  CHECK(code(dir / "notes.txt") == ExitCode::kConfig);
  CHECK(code(dir.path()) == ExitCode::kConfig);
}

}  // namespace
}  // namespace dsv::train
