// Saves that fail on one rank fail on all, leave nothing, and do not stop the next one.
#include <thread>

#include "dsv/train/fault.h"
#include "support/catch.h"
#include "train/checkpoint_state.h"

namespace dsv::train {
namespace {

using namespace dsv::test;
using Names = std::vector<std::string>;

struct Faults {
  explicit Faults(const std::string& spec) { set_faults(spec); }
  ~Faults() { set_faults(""); }
};

// Saves steps 1, 2, 3 on two ranks with the fault at step 2; returns what went wrong, "" for
// nothing.
std::string save_around_failure(const std::string& dir, bool async, const std::string& reason) {
  CheckpointWriter::Options options;
  options.async = async;
  const Names errors = run_ranks(2, [&](comm::Communicator& comm) {
    CheckpointWriter writer(dir, options, comm);
    for (std::int64_t step = 1; step <= 3; ++step) {
      const auto pieces = make_state(small_state(), step, comm.rank(), comm.size());
      writer.save(make_meta(step), pieces);
      writer.drain();
      const CheckpointStats& s = writer.stats();
      const bool as_expected = s.last_save_failed == (step == 2) && s.num_failed == (step >= 2) &&
                               s.last_saved_step == (step == 2 ? 1 : step);
      if (!as_expected)
        throw std::runtime_error("step " + std::to_string(step) + ": " + s.last_error);
      if (step == 2 && s.last_error.find(reason) == std::string::npos)
        throw std::runtime_error(s.last_error);
      // Nobody looks before rank 0 has tidied up, nor goes on while somebody looks.
      comm.barrier();
      for (const std::string& name : names_in(dir)) {
        if (name.find("tmp") != std::string::npos) throw std::runtime_error("left: " + name);
      }
      comm.barrier();
    }
  });
  for (const std::string& error : errors) {
    if (!error.empty()) return error;
  }
  if (names_in(dir) != Names{"step_1", "step_3"}) return "other names";
  const std::string newest = load_newest(dir, small_state(), 2);
  return newest == "step 3" ? "" : newest;
}

TEST_CASE("a failure at any point of any rank is agreed on, cleaned up and counted",
          "[checkpoint][fault]") {
  struct Point {
    const char* name;
    int num_ranks;  // that have it
  };
  for (const Point& point : {Point{"ckpt_open", 2},
                             {"ckpt_write", 2},
                             {"ckpt_fsync", 2},
                             {"ckpt_manifest", 1},
                             {"ckpt_rename", 1},
                             {"ckpt_commit", 1}}) {
    for (int rank = 0; rank < point.num_ranks; ++rank) {
      for (const bool full : {true, false}) {
        const bool async = rank == 0;
        INFO(point.name << " on rank " << rank << (full ? ": disk full" : ": I/O error"));
        const Faults faults(std::string(point.name) + (full ? ":enospc@" : ":eio@") +
                            std::to_string(rank) + ",2");
        const TempDir dir;
        CHECK(save_around_failure(dir.path(), async,
                                  full ? "No space left" : "Input/output error") == "");
      }
    }
  }
}

TEST_CASE("a step that fails to replace itself keeps what it was", "[checkpoint][fault]") {
  const TempDir dir;
  REQUIRE(all_empty(save_one(dir.path(), small_state(), 5, 1)));
  const std::string before = read_bytes(dir / "step_5/manifest.json");
  for (const char* point : {"ckpt_manifest", "ckpt_rename", "ckpt_commit"}) {
    INFO(point);
    const Faults faults(std::string(point) + ":eio@0,5");
    CHECK_THAT(save_one(dir.path(), small_state(), 5, 2)[0], Contains("Input/output error"));
    CHECK(names_in(dir.path()) == Names{"step_5"});
    CHECK(read_bytes(dir / "step_5/manifest.json") == before);
    CHECK(load_newest(dir.path(), small_state(), 2) == "step 5");
  }
}

TEST_CASE("bytes that the disk changed are found before the commit", "[checkpoint][fault]") {
  const bool verify = GENERATE(true, false);
  const Faults faults("ckpt_fsync:sleep=700@1,2");
  const TempDir dir;
  CheckpointWriter::Options options;
  options.verify_after_save = verify;
  const Names errors = run_ranks(2, [&](comm::Communicator& comm) {
    CheckpointWriter writer(dir.path(), options, comm);
    const auto pieces = make_state(small_state(), 2, comm.rank(), comm.size());
    writer.save(make_meta(2), pieces);
    if (comm.rank() == 0) {
      // Rank 1 has written its shard and sleeps before it syncs.
      const std::string shard = dir / names_in(dir.path()).at(0) + "/rank_00001.safetensors";
      std::string bytes;
      for (int i = 0; i < 500 && bytes.size() < 8000; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        bytes = read_bytes(shard);
      }
      bytes.at(7000) = static_cast<char>(bytes.at(7000) ^ 16);
      write_bytes(shard, bytes);
    }
    writer.drain();
    if (writer.stats().last_save_failed) throw std::runtime_error(writer.stats().last_error);
  });
  for (const std::string& error : errors) {
    if (verify) {
      CHECK_THAT(error, Contains("rank 1: ") && Contains("rank_00001.safetensors': bytes [0, "));
    } else {
      CHECK(error.empty());
    }
  }
  // Without the reading back it is the next reader that finds it.
  CHECK_THAT(load_newest(dir.path(), small_state(), 2), Contains(verify ? "none" : "11: "));
}

TEST_CASE("short writes are continued", "[checkpoint][fault]") {
  const Faults faults("ckpt_write:shortwrite@*,*");
  const TempDir dir;
  REQUIRE(all_empty(save_one(dir.path(), mixed_state(), 7, 2)));
  CHECK(load_newest(dir.path(), mixed_state(), 3) == "step 7");
}

TEST_CASE("training goes on while a slow disk writes", "[checkpoint][fault]") {
  const Faults faults("ckpt_fsync:sleep=1500@1,2");
  const TempDir dir;
  std::vector<double> blocked(2), total(2);
  const Names errors = run_ranks(2, [&](comm::Communicator& comm) {
    CheckpointWriter writer(dir.path(), {}, comm);
    const auto pieces = make_state(small_state(), 2, comm.rank(), comm.size());
    writer.save(make_meta(2), pieces);
    for (int step = 0; step < 20; ++step) writer.poll();
    if (writer.stats().num_saved != 0) throw std::runtime_error("committed before all had written");
    blocked[static_cast<std::size_t>(comm.rank())] = writer.stats().blocked_seconds;
    writer.drain();
    total[static_cast<std::size_t>(comm.rank())] = writer.stats().blocked_seconds;
  });
  REQUIRE(errors == Names{"", ""});
  for (std::size_t r = 0; r < 2; ++r) {
    CHECK(blocked[r] < 0.75);
    CHECK(total[r] > 0.75);
  }
  CHECK(load_newest(dir.path(), small_state(), 1) == "step 2");
}

TEST_CASE("a save that cannot fit is refused before it is written", "[checkpoint]") {
  const TempDir dir;
  const auto comm = comm::make_self();
  CheckpointWriter writer(dir.path(), {}, *comm);
  // The size is what counts: these 2^50 bytes exist nowhere, and nothing may touch them.
  StatePiece piece{"w", DType::kU8, std::int64_t{1} << 50, 0, std::int64_t{1} << 50, Tensor()};
  piece.data = Tensor(&piece, DType::kU8, Shape{piece.total});
  writer.save(make_meta(1), std::span(&piece, 1));
  writer.drain();
  CHECK(writer.stats().num_failed == 1);
  CHECK(names_in(dir.path()).empty());
}

}  // namespace
}  // namespace dsv::train
