// Damaged checkpoints: found, named, and never used; the one before is.
#include <sys/stat.h>
#include <unistd.h>

#include "dsv/train/checkpoint_manifest.h"
#include "support/catch.h"
#include "train/checkpoint_state.h"

namespace dsv::train {
namespace {

using namespace dsv::test;

// Steps 4 and 6 of two ranks, made once.
std::string pristine() {
  static const TempDir dir;
  static const bool made = [] {
    for (const std::int64_t step : {4, 6}) {
      if (!all_empty(save_one(dir.path(), small_state(), step, 2))) std::abort();
    }
    return true;
  }();
  REQUIRE(made);
  return dir.path();
}

struct Copy {
  TempDir dir;
  std::string newest = dir / "step_6";
  Copy() {
    std::filesystem::copy(pristine(), dir.path(), std::filesystem::copy_options::recursive);
  }
  std::string shard(int rank) const { return newest + '/' + shard_name(rank); }
  std::string manifest() const { return newest + "/manifest.json"; }
};

// Falls back to step 4 on 1 and 2 ranks; strict, it is an error that holds `reason`.
void check_falls_back(const Copy& copy, const std::string& reason, const char* code = "10: ") {
  CHECK(load_newest(copy.dir.path(), small_state(), 1) == "step 4");
  CHECK(load_newest(copy.dir.path(), small_state(), 2) == "step 4");
  CheckpointReader::Options strict;
  strict.strict = true;
  const std::string error = load_newest(copy.dir.path(), small_state(), 2, strict);
  CHECK_THAT(error, Contains(code) && Contains(reason));
}

TEST_CASE("truncated and missing files are named and passed over", "[checkpoint]") {
  const Copy copy;
  REQUIRE(load_newest(copy.dir.path(), small_state(), 2) == "step 6");
  const auto shard_size = static_cast<std::int64_t>(std::filesystem::file_size(copy.shard(1)));
  const auto manifest_size = static_cast<std::int64_t>(std::filesystem::file_size(copy.manifest()));
  SECTION("shards") {
    for (const std::int64_t size :
         {std::int64_t{0}, std::int64_t{1}, shard_size / 2, shard_size - 1, shard_size + 1}) {
      std::filesystem::resize_file(copy.shard(1), static_cast<std::uintmax_t>(size));
      check_falls_back(
          copy, "step_6/rank_00001.safetensors' has " + std::to_string(size) + " bytes, expected");
    }
    std::filesystem::remove(copy.shard(1));
    check_falls_back(copy, "step_6/rank_00001.safetensors' is missing");
  }
  SECTION("manifest") {
    for (const std::int64_t size : {std::int64_t{0}, std::int64_t{1}, manifest_size / 2,
                                    manifest_size - 1, manifest_size + 1}) {
      std::filesystem::resize_file(copy.manifest(), static_cast<std::uintmax_t>(size));
      check_falls_back(copy, "step_6/manifest.json: its CRC does not fit");
    }
    std::filesystem::remove(copy.manifest());
    check_falls_back(copy, "step_6/manifest.json' is missing");
  }
  SECTION("everything") {
    for (const std::string& name : names_in(copy.newest))
      std::filesystem::remove(copy.newest + '/' + name);
    check_falls_back(copy, "step_6/manifest.json' is missing");
  }
}

TEST_CASE("files that do not belong are named", "[checkpoint]") {
  const Copy copy;
  SECTION("a shard too many") {
    std::filesystem::copy_file(copy.shard(0), copy.shard(2));
    check_falls_back(copy, "step_6/rank_00002.safetensors' does not belong");
  }
  SECTION("another file") {
    write_bytes(copy.newest + "/notes.txt", "x");
    check_falls_back(copy, "step_6/notes.txt' does not belong");
  }
  SECTION("hidden files are the system's") {
    write_bytes(copy.newest + "/.nfs0001", "x");
    CHECK(load_newest(copy.dir.path(), small_state(), 2) == "step 6");
  }
}

TEST_CASE("links, pipes and folders are not followed", "[checkpoint]") {
  const Copy copy;
  const std::string aside = copy.dir / "aside";
  SECTION("shard is a link to itself elsewhere") {
    std::filesystem::rename(copy.shard(0), aside);
    std::filesystem::create_symlink(aside, copy.shard(0));
    check_falls_back(copy, "rank_00000.safetensors' is a symbolic link");
  }
  SECTION("manifest is a link") {
    std::filesystem::rename(copy.manifest(), aside);
    std::filesystem::create_symlink(aside, copy.manifest());
    check_falls_back(copy, "manifest.json' is a symbolic link");
  }
  SECTION("the checkpoint is a link") {
    std::filesystem::rename(copy.newest, aside);
    std::filesystem::create_directory_symlink(aside, copy.newest);
    check_falls_back(copy, "step_6' is not a folder");
  }
  SECTION("shard is a pipe: nobody waits for it") {
    std::filesystem::remove(copy.shard(1));
    REQUIRE(::mkfifo(copy.shard(1).c_str(), 0666) == 0);
    check_falls_back(copy, "rank_00001.safetensors' is not a regular file");
  }
  SECTION("manifest is a folder") {
    std::filesystem::remove(copy.manifest());
    std::filesystem::create_directory(copy.manifest());
    check_falls_back(copy, "manifest.json' is not a regular file");
  }
  SECTION("the checkpoint is a file") {
    std::filesystem::remove_all(copy.newest);
    write_bytes(copy.newest, "x");
    check_falls_back(copy, "step_6' is not a folder");
  }
}

TEST_CASE("mixed saves are told apart", "[checkpoint]") {
  const Copy copy;
  const auto overwrite = [](const std::string& from, const std::string& to) {
    std::filesystem::copy_file(from, to, std::filesystem::copy_options::overwrite_existing);
  };
  SECTION("a shard of the step before, of the same size") {
    overwrite(copy.dir / "step_4/rank_00001.safetensors", copy.shard(1));
    check_falls_back(copy,
                     "step_6/rank_00001.safetensors' is of another save: step '4', expected '6'");
  }
  SECTION("a shard of the same step of another save") {
    const TempDir other;
    REQUIRE(all_empty(save_one(other.path(), small_state(), 6, 2)));
    overwrite(other / "step_6/rank_00001.safetensors", copy.shard(1));
    check_falls_back(copy, "step_6/rank_00001.safetensors' is of another save: save_id");
  }
  SECTION("two shards swapped") {
    const std::string aside = copy.dir / "aside";
    std::filesystem::rename(copy.shard(0), aside);
    std::filesystem::rename(copy.shard(1), copy.shard(0));
    std::filesystem::rename(aside, copy.shard(1));
    check_falls_back(copy, "rank_00000.safetensors' ");
  }
  SECTION("the manifest of the step before") {
    overwrite(copy.dir / "step_4/manifest.json", copy.manifest());
    check_falls_back(copy, "step_6' holds step 4");
  }
  SECTION("a folder renamed to another step") {
    std::filesystem::rename(copy.newest, copy.dir / "step_9");
    check_falls_back(copy, "step_9' holds step 6");
  }
}

TEST_CASE("the newest valid one is found behind several damaged ones", "[checkpoint]") {
  const TempDir dir;
  CheckpointWriter::Options options;
  options.keep = 5;
  for (const std::int64_t step : {1, 2, 3, 10}) {
    REQUIRE(all_empty(save_one(dir.path(), small_state(), step, 1, false, options)));
  }
  CHECK(load_newest(dir.path(), small_state(), 2) == "step 10");  // as numbers, not as text
  std::filesystem::resize_file(dir / "step_10/manifest.json", 10);
  CHECK(load_newest(dir.path(), small_state(), 2) == "step 3");
  std::filesystem::resize_file(dir / "step_3/rank_00000.safetensors", 10);
  CHECK(load_newest(dir.path(), small_state(), 2) == "step 2");
  std::filesystem::remove(dir / "step_2/manifest.json");
  CHECK(load_newest(dir.path(), small_state(), 3) == "step 1");
  std::filesystem::remove(dir / "step_1/rank_00000.safetensors");
  // Never a silent start from scratch.
  CHECK_THAT(load_newest(dir.path(), small_state(), 3),
             Contains("11: ") && Contains("none of the 4"));
}

TEST_CASE("verify finds damage that came after opening", "[checkpoint]") {
  const Copy copy;
  const auto errors = run_ranks(2, [&](comm::Communicator& comm) {
    const CheckpointReader reader = CheckpointReader::open(copy.newest, {}, comm);
    reader.verify(comm);
    comm.barrier();
    if (comm.rank() == 0) {
      std::string bytes = read_bytes(copy.shard(1));
      bytes.back() = static_cast<char>(bytes.back() ^ 1);
      write_bytes(copy.shard(1), bytes);
    }
    comm.barrier();
    reader.verify(comm);
  });
  for (const std::string& error : errors) {
    CHECK_THAT(error, Contains("10: ") && Contains("rank_00001.safetensors': bytes [0, ") &&
                          Contains("have CRC"));
  }
  // Without payload, a flipped payload bit passes: what `dsv inspect` does without --verify.
  const auto comm = comm::make_self();
  CHECK(CheckpointReader::open(copy.newest, {}, *comm, false).meta().step == 6);
}

// Flips `count` bits, one at a time, evenly spread over files and bits by a counter-based
// generator; returns how many went unseen.
int count_undetected_flips(int count, std::uint64_t seed) {
  const Copy copy;
  const std::string files[] = {copy.manifest(), copy.shard(0), copy.shard(1)};
  const auto comm = comm::make_self();
  int undetected = 0;
  for (int i = 0; i < count; ++i) {
    const PhiloxBlock random = PhiloxStream({.seed = seed, .purpose = RngPurpose::kTest})
                                   .block(static_cast<std::uint64_t>(i));
    const std::string& path = files[random[0] % 3];
    const std::string good = read_bytes(path);
    std::size_t begin = 0, end = good.size();
    if (path == copy.manifest()) {
      if (random[1] % 4 == 0) begin = end - 20;  // the CRC of the manifest itself
    } else if (random[1] % 2 == 0) {
      end = 1024;  // the shard's header
    }
    std::string bad = good;
    char& byte = bad[begin + random[2] % (end - begin)];
    byte = static_cast<char>(byte ^ (1 << (random[3] % 8)));
    write_bytes(path, bad);
    try {
      CheckpointReader::open(copy.newest, {}, *comm);
      ++undetected;
    } catch (const Error& error) {
      if (error.code() != ExitCode::kCorruptInput) ++undetected;
    }
    write_bytes(path, good);
  }
  CheckpointReader::open(copy.newest, {}, *comm);
  return undetected;
}

TEST_CASE("a hundred flipped bits in payload, header, manifest and CRC are all found",
          "[checkpoint]") {
  CHECK(count_undetected_flips(100, 1) == 0);
}

TEST_CASE("a thousand flipped bits are all found", "[checkpoint][.long]") {
  CHECK(count_undetected_flips(1000, 2) == 0);
}

}  // namespace
}  // namespace dsv::train
