// Saving and resuming: whatever the worlds are, what was saved is what is read, bit for bit.
#include "train/checkpoint_state.h"

#include <thread>

#include "dsv/data/safetensors.h"
#include "support/catch.h"

namespace dsv::train {
namespace {

using namespace dsv::test;
using Names = std::vector<std::string>;

TEST_CASE("any world reads what any world wrote, bitwise", "[checkpoint]") {
  const auto [writers, interleaved] =
      GENERATE(std::pair(1, false), std::pair(2, false), std::pair(4, false), std::pair(3, true));
  const TempDir dir;
  REQUIRE(all_empty(save_one(dir.path(), mixed_state(), 12, writers, interleaved)));
  REQUIRE(names_in(dir.path()) == Names{"step_12"});
  REQUIRE(names_in(dir / "step_12").size() == static_cast<std::size_t>(writers) + 1);
  for (int readers = 1; readers <= 4; ++readers) {
    INFO(writers << " writers, " << readers << " readers");
    CHECK(load_newest(dir.path(), mixed_state(), readers) == "step 12");
  }
}

TEST_CASE("shards are files that the strict safetensors reader accepts", "[checkpoint]") {
  const TempDir dir;
  REQUIRE(all_empty(save_one(dir.path(), mixed_state(), 3, 2, true)));
  std::int64_t num_elements = 0;
  for (int rank = 0; rank < 2; ++rank) {
    const auto file = data::SafetensorsFile::open(dir / "step_3/" + shard_name(rank));
    CHECK(*file.find_metadata("run_id") == "run-of-a-test");
    CHECK(*file.find_metadata("step") == "3");
    for (const data::TensorInfo& t : file.tensors()) num_elements += t.shape().num_elements();
  }
  std::int64_t expected = 0;
  for (const ArraySpec& spec : mixed_state()) expected += spec.total;
  CHECK(num_elements == expected);
}

TEST_CASE("a read may begin and end anywhere, and refuses what is not there", "[checkpoint]") {
  const TempDir dir;
  REQUIRE(all_empty(save_one(dir.path(), small_state(), 1, 3, true)));
  const auto comm = comm::make_self();
  const CheckpointReader reader = CheckpointReader::open(dir / "step_1", {}, *comm);
  const ArraySpec spec = small_state()[0];
  for (std::int64_t begin = 0; begin < spec.total; begin += 61) {
    for (const std::int64_t size : {0, 1, 77, 78, 300, 1003}) {
      const std::int64_t end = std::min(begin + size, spec.total);
      const Tensor out = make_bytes(spec.dtype, end - begin);
      reader.read(spec.name, begin, end, out);
      REQUIRE(is_filled(spec, 1, begin, out));
    }
  }
  const auto refused = [&](std::string_view name, std::int64_t begin, std::int64_t end,
                           DType dtype) {
    try {
      reader.read(name, begin, end, make_bytes(dtype, end - begin));
    } catch (const Error& e) {
      return std::to_string(static_cast<int>(e.code())) + ": " + e.what();
    }
    return std::string("read");
  };
  CHECK_THAT(refused("no such", 0, 1, DType::kF32),
             Contains("12: ") && Contains("holds no array 'no such'"));
  CHECK_THAT(refused(spec.name, 0, 1004, DType::kF32),
             Contains("12: ") && Contains("has 1003 elements"));
  CHECK_THAT(refused(spec.name, 0, 4, DType::kF64), Contains("12: ") && Contains("of F32"));
  CHECK_FALSE(reader.has("no such"));
  CHECK(reader.find("empty")->total == 0);
}

TEST_CASE("asynchronous and synchronous saves write the same bytes", "[checkpoint]") {
  const TempDir sync_dir, async_dir;
  for (const bool async : {false, true}) {
    CheckpointWriter::Options options;
    options.async = async;
    REQUIRE(all_empty(
        save_one((async ? async_dir : sync_dir).path(), mixed_state(), 5, 2, false, options)));
  }
  for (int rank = 0; rank < 2; ++rank) {
    std::string a = read_bytes(sync_dir / "step_5/" + shard_name(rank));
    std::string b = read_bytes(async_dir / "step_5/" + shard_name(rank));
    REQUIRE(a.size() == b.size());
    // The id of the save is all that differs.
    for (std::string* text : {&a, &b}) {
      const auto at = text->find("\"save_id\":\"");
      REQUIRE(at != std::string::npos);
      text->replace(at + 11, 32, 32, '0');
    }
    CHECK((a == b));
  }
}

TEST_CASE("state may change as soon as save returns", "[checkpoint]") {
  const TempDir dir;
  const auto errors = run_ranks(2, [&](comm::Communicator& comm) {
    CheckpointWriter writer(dir.path(), {}, comm);
    const auto pieces = make_state(mixed_state(), 8, comm.rank(), comm.size());
    writer.save(make_meta(8), pieces);
    for (const StatePiece& piece : pieces) {
      if (piece.begin < piece.end)
        std::memset(piece.data.raw(), 0xAB, static_cast<std::size_t>(piece.data.num_bytes()));
    }
    writer.drain();
  });
  REQUIRE(all_empty(errors));
  CHECK(load_newest(dir.path(), mixed_state(), 1) == "step 8");
}

TEST_CASE("poll commits once every rank has written, without drain", "[checkpoint]") {
  const TempDir dir;
  const auto errors = run_ranks(2, [&](comm::Communicator& comm) {
    CheckpointWriter writer(dir.path(), {}, comm);
    writer.poll();
    const auto pieces = make_state(small_state(), 4, comm.rank(), comm.size());
    writer.save(make_meta(4), pieces);
    for (int i = 0; i < 10'000 && writer.stats().num_saved == 0; ++i) {
      writer.poll();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (writer.stats().num_saved != 1) throw std::runtime_error("never committed");
    writer.drain();
    if (writer.stats().num_saved != 1) throw std::runtime_error("committed twice");
  });
  CHECK(errors == Names{"", ""});
  CHECK(load_newest(dir.path(), small_state(), 2) == "step 4");
}

TEST_CASE("a writer that is not drained commits nothing", "[checkpoint]") {
  const TempDir dir;
  const auto errors = run_ranks(2, [&](comm::Communicator& comm) {
    CheckpointWriter writer(dir.path(), {}, comm);
    const auto pieces = make_state(small_state(), 4, comm.rank(), comm.size());
    writer.save(make_meta(4), pieces);
  });
  CHECK(all_empty(errors));
  CHECK(load_newest(dir.path(), small_state(), 1) == "none");
  // What it left is removed by the next writer.
  CHECK(names_in(dir.path()).size() == 1);
  write_bytes(dir / ".probe-0-1", "of a rank that was killed");
  CHECK(all_empty(
      run_ranks(1, [&](comm::Communicator& comm) { CheckpointWriter(dir.path(), {}, comm); })));
  CHECK(names_in(dir.path()).empty());
  CHECK_FALSE(std::filesystem::exists(dir / ".probe-0-1"));
}

TEST_CASE("a steady run allocates its snapshot once and keeps the newest checkpoints",
          "[checkpoint]") {
  const TempDir dir;
  CheckpointWriter::Options options;
  options.keep = 2;
  options.async = GENERATE(false, true);
  std::vector<CheckpointStats> stats(2);
  const auto errors = run_ranks(2, [&](comm::Communicator& comm) {
    CheckpointWriter writer(dir.path(), options, comm);
    for (std::int64_t step = 10; step <= 60; step += 10) {
      const auto pieces = make_state(small_state(), step, comm.rank(), comm.size());
      writer.save(make_meta(step), pieces);
      writer.poll();
    }
    writer.drain();
    stats[static_cast<std::size_t>(comm.rank())] = writer.stats();
  });
  REQUIRE(errors == Names{"", ""});
  for (const CheckpointStats& s : stats) {
    CHECK(s.num_saved == 6);
    CHECK(s.num_failed == 0);
    CHECK(s.last_saved_step == 60);
    CHECK(s.num_snapshot_allocations == 1);
    CHECK(s.bytes_written > 0);
    CHECK(s.blocked_seconds >= s.last_blocked_seconds);
  }
  CHECK(names_in(dir.path()) == Names{"step_50", "step_60"});
  CHECK(load_newest(dir.path(), small_state(), 3) == "step 60");
}

TEST_CASE("a step that is saved again replaces the checkpoint", "[checkpoint]") {
  const TempDir dir;
  REQUIRE(all_empty(save_one(dir.path(), small_state(), 5, 3)));
  REQUIRE(all_empty(save_one(dir.path(), small_state(), 5, 1)));
  CHECK(names_in(dir.path()) == Names{"step_5"});
  CHECK(names_in(dir / "step_5") == Names{"manifest.json", "rank_00000.safetensors"});
  CHECK(load_newest(dir.path(), small_state(), 2) == "step 5");
}

TEST_CASE("checkpoints of another history are set aside, not mixed in and not removed",
          "[checkpoint]") {
  const TempDir dir;
  CheckpointWriter::Options options;
  options.keep = 4;
  for (const std::int64_t step : {10, 20, 30, 40}) {
    REQUIRE(all_empty(save_one(dir.path(), small_state(), step, 1, false, options)));
  }

  SECTION("the run resumed from step 10: later ones are not its past") {
    options.resumed_step = 10;
    REQUIRE(all_empty(save_one(dir.path(), small_state(), 30, 1, false, options)));
    const Names names = names_in(dir.path());
    REQUIRE(names.size() == 5);
    CHECK(names[0] == "step_10");
    CHECK(names[1].starts_with("step_20.superseded-"));
    CHECK(names[2] == "step_30");
    CHECK(names[3].starts_with("step_30.superseded-"));
    CHECK(names[4].starts_with("step_40.superseded-"));
    CHECK(load_newest(dir.path(), small_state(), 1) == "step 30");
    // Their contents stay readable by path.
    const auto comm = comm::make_self();
    CHECK(CheckpointReader::open(dir / names[4], {}, *comm).meta().step == 40);
  }
  SECTION("unknown past: only later steps") {
    REQUIRE(all_empty(save_one(dir.path(), small_state(), 25, 1, false, options)));
    CHECK(names_in(dir.path()).size() == 5);
    CHECK(load_newest(dir.path(), small_state(), 1) == "step 25");
  }
  SECTION("only checkpoints that were set aside: not a start from scratch") {
    for (const std::string& name : names_in(dir.path())) {
      std::filesystem::rename(dir / name, dir / (name + ".superseded-0"));
    }
    CHECK_THAT(load_newest(dir.path(), small_state(), 2),
               Contains("11: ") && Contains("set aside"));
  }
}

TEST_CASE("no checkpoint is not an error unless one is required", "[checkpoint]") {
  const TempDir dir;
  CheckpointReader::Options required;
  required.required = true;
  CHECK(load_newest(dir.path(), small_state(), 2) == "none");
  CHECK(load_newest(dir / "absent", small_state(), 2) == "none");
  CHECK_THAT(load_newest(dir.path(), small_state(), 2, required),
             Contains("11: ") && Contains("no checkpoint in"));
  // What looks like one by name only.
  std::filesystem::create_directories(dir / "step_x");
  std::filesystem::create_directories(dir / "step_007");
  std::filesystem::create_directories(dir / "step_");
  std::filesystem::create_directories(dir / "step_9.tmp-abc");
  std::filesystem::create_directories(dir / "step_99999999999999999999");
  CHECK(load_newest(dir.path(), small_state(), 2) == "none");
}

TEST_CASE("wrong use throws the same on every rank and names the array", "[checkpoint]") {
  const TempDir dir;
  const auto saving =
      [&](const std::function<void(int, CheckpointMeta&, std::vector<StatePiece>&)>& spoil) {
        return run_ranks(2, [&](comm::Communicator& comm) {
          CheckpointWriter writer(dir.path(), {}, comm);
          std::vector<StatePiece> pieces = make_state(small_state(), 1, comm.rank(), comm.size());
          CheckpointMeta meta = make_meta(1);
          spoil(comm.rank(), meta, pieces);
          writer.save(meta, pieces);
        });
      };
  const auto expect = [&](const Names& errors, const char* reason) {
    for (const std::string& error : errors) CHECK_THAT(error, Contains("1: ") && Contains(reason));
  };
  expect(saving([](int rank, auto&, auto& pieces) {
           if (rank == 1) pieces.erase(pieces.begin());
         }),
         "'block.0/master': elements [512, 1003) are in no shard");
  expect(saving([](int rank, auto&, auto& pieces) {
           if (rank == 1) {
             pieces[0].begin = 500;
             pieces[0].data = make_bytes(DType::kF32, 503);
           }
         }),
         "'block.0/master': elements [500, 512) are in shard 0 and in shard 1");
  expect(saving([](int, auto&, auto& pieces) { pieces.push_back(pieces[0]); }),
         "are in shard 0 and in shard 0");
  expect(saving([](int rank, auto&, auto& pieces) {
           if (rank == 1) pieces[0].total = 2000;
         }),
         "'block.0/master' has 1003 elements of F32 on rank 0, 2000 of F32 on rank 1");
  expect(saving([](int rank, auto&, auto& pieces) {
           if (rank == 1) pieces[0].data = make_bytes(DType::kBF16, 491);
         }),
         "rank 1: [checkpoint] array 'block.0/master': expected 491 contiguous elements of F32");
  expect(saving([](int rank, auto&, auto& pieces) {
           if (rank == 0) pieces[0].end = 5000;
         }),
         "rank 0: [checkpoint] array 'block.0/master': piece [0, 5000) of 1003");
  expect(saving([](int rank, auto& meta, auto&) {
           if (rank == 1) meta.step = 2;
         }),
         "rank 1 saves step 2, rank 0 saves 1");
  expect(saving([](int rank, auto& meta, auto&) {
           if (rank == 1) meta.run_id = "b";
         }),
         "saves run \"b\"");
  expect(saving([](int, auto& meta, auto&) { meta.run_id = ""; }), "of run ''");
  CHECK(names_in(dir.path()).empty());
}

TEST_CASE("what could not be read back is not committed", "[checkpoint]") {
  const TempDir dir;
  const auto errors = run_ranks(2, [&](comm::Communicator& comm) {
    CheckpointWriter writer(dir.path(), {}, comm);
    const auto pieces = make_state(small_state(), 1, comm.rank(), comm.size());
    CheckpointMeta meta = make_meta(1);
    meta.config_yaml = "not UTF-8: \xff";
    writer.save(meta, pieces);
    writer.drain();
    if (writer.stats().num_failed != 1 || !writer.stats().last_save_failed)
      throw std::runtime_error("accepted");
    writer.save(make_meta(1), pieces);
    writer.drain();
    if (writer.stats().last_save_failed) throw std::runtime_error(writer.stats().last_error);
  });
  CHECK(errors == Names{"", ""});
  CHECK(names_in(dir.path()) == Names{"step_1"});
}

TEST_CASE("a second writer in the same folder is refused", "[checkpoint]") {
  const TempDir dir;
  const auto comm = comm::make_self();
  const CheckpointWriter first(dir.path(), {}, *comm);
  const Names errors =
      run_ranks(2, [&](comm::Communicator& c) { CheckpointWriter(dir.path(), {}, c); });
  for (const std::string& error : errors) {
    CHECK_THAT(error, Contains("3: ") && Contains("another process saves checkpoints"));
  }
}

}  // namespace
}  // namespace dsv::train
