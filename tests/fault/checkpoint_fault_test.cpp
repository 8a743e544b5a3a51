// Checkpoints under real deaths and real lacks: SIGKILL, a full disk, a read-only folder.
#include <sys/stat.h>

#include "data/temp_dir.h"
#include "dsv/base/philox.h"
#include "fault/child.h"
#include "support/catch.h"

namespace dsv::test {
namespace {

using data::TempDir;

const std::string kDriver = DSV_CHECKPOINT_DRIVER;
constexpr const char* kPoints[] = {"ckpt_open",     "ckpt_write",  "ckpt_fsync",
                                   "ckpt_manifest", "ckpt_rename", "ckpt_commit"};

Outcome drive(Words arguments, const std::string& fault = "") {
  arguments.insert(arguments.begin(), kDriver);
  return run_program(arguments, {{"DSV_FAULT", fault}});
}

bool skipped(const Outcome& outcome) {
  if (outcome.exit_code != 77) return false;
  WARN("SKIPPED, not permitted here: " << outcome.output);
  return true;
}

// What the driver prints itself: lines of the log begin with a level and the time.
std::string without_log(const std::string& output) {
  std::string out;
  for (std::size_t at = 0; at < output.size();) {
    const std::size_t end = std::min(output.find('\n', at), output.size() - 1) + 1;
    const std::string line = output.substr(at, end - at);
    if (line.size() < 4 || line[1] != ' ' || line[4] != ':') out += line;
    at = end;
  }
  return out;
}

bool has_unfinished(const std::string& dir) {
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    if (entry.path().filename().string().find(".tmp-") != std::string::npos) return true;
  }
  return false;
}

TEST_CASE("SIGKILL at any point of a save leaves the one before, or the new one whole", "[fault]") {
  for (const char* point : kPoints) {
    for (const bool sync : {false, true}) {
      INFO(point << (sync ? ", synchronous" : ", asynchronous"));
      const TempDir dir;
      const Words mode = sync ? Words{"--sync"} : Words{};
      const auto with_mode = [&](Words words) {
        words.insert(words.begin(), mode.begin(), mode.end());
        return words;
      };
      const Outcome killed =
          drive(with_mode({"save", dir.path(), "1", "2"}), std::string(point) + ":kill9@0,2");
      INFO(killed.output);
      REQUIRE(killed.signal == SIGKILL);
      const bool committed = std::string(point) == "ckpt_commit";
      CHECK(has_unfinished(dir.path()) == !committed);
      const Outcome loaded = drive({"load", dir.path()});
      INFO(loaded.output);
      CHECK(loaded.exit_code == 0);
      CHECK_THAT(loaded.output, Contains(committed ? "loaded 2" : "loaded 1"));
      const Outcome next = drive(with_mode({"save", dir.path(), "3"}));
      INFO(next.output);
      CHECK(next.exit_code == 0);
      CHECK_FALSE(has_unfinished(dir.path()));
      CHECK_THAT(drive({"load", dir.path()}).output, Contains("loaded 3"));
    }
  }
}

// mpirun -n 2 of the driver; the exit code is 77 where there is no mpirun.
Outcome drive_two_ranks(const Words& arguments, const std::string& fault = "",
                        int kill_after_ms = -1) {
  if (std::string(DSV_MPIEXEC).empty()) {
    Outcome none;
    none.exit_code = 77;
    none.output = "no mpirun was found when configuring";
    return none;
  }
  Words command = {DSV_MPIEXEC, "-n", "2", kDriver};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return run_program(command,
                     {{"DSV_FAULT", fault},
                      {"OMPI_ALLOW_RUN_AS_ROOT", "1"},
                      {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
                      {"OMPI_MCA_rmaps_base_oversubscribe", "1"},
                      {"OMPI_MCA_hwloc_base_binding_policy", "none"},
                      {"OMPI_MCA_mpi_yield_when_idle", "1"}},
                     kill_after_ms);
}

// Rank `rank` of two dies at `point` of step 2: the job ends, and step 1 or a whole step 2 is
// found.
void kill_one_of_two(const std::string& point, int rank) {
  INFO(point << " on rank " << rank);
  const TempDir dir;
  const Outcome killed = drive_two_ranks({"save", dir.path(), "1", "2"},
                                         point + ":kill9@" + std::to_string(rank) + ",2");
  if (skipped(killed)) return;
  INFO(killed.output);
  REQUIRE(killed.exit_code == 128 + SIGKILL);
  CHECK(killed.seconds < 10);
  const Outcome loaded = drive({"load", dir.path()});
  INFO(loaded.output);
  REQUIRE(loaded.exit_code == 0);
  CHECK_THAT(loaded.output, !Contains("NOT valid"));
  const bool may_be_old = !(rank == 0 && point == "ckpt_commit");
  // The commit is rank 0's work: another rank's death races with it.
  const bool may_be_new =
      point == "ckpt_commit" || (rank == 1 && (point == "ckpt_manifest" || point == "ckpt_rename"));
  const bool is_old = loaded.output.find("loaded 1") != std::string::npos;
  const bool is_new = loaded.output.find("loaded 2") != std::string::npos;
  CHECK(((is_old && may_be_old) || (is_new && may_be_new)));
  CHECK(drive({"save", dir.path(), "3"}).exit_code == 0);
  CHECK_FALSE(has_unfinished(dir.path()));
}

TEST_CASE("SIGKILL of one rank under mpirun", "[fault]") {
  for (int i = 0; i < 6; ++i) kill_one_of_two(kPoints[i], (i + 1) % 2);
}
TEST_CASE("SIGKILL of each rank at each point under mpirun", "[fault][.long]") {
  for (const char* point : kPoints) {
    for (int rank = 0; rank < 2; ++rank) kill_one_of_two(point, rank);
  }
}

TEST_CASE("ranks that see another folder or cannot write there are named", "[fault]") {
  const TempDir dir;
  REQUIRE(::chmod(dir.path().c_str(), 0755) == 0);
  const Outcome other =
      drive_two_ranks({"--only-rank", "1", "--tmpfs", "65536", "save", dir.path(), "1"});
  if (skipped(other)) return;
  {
    INFO(other.output);
    CHECK(other.exit_code == 3);
    CHECK_THAT(other.output, Contains("rank 1: ") && Contains("is it on a shared file system?"));
  }
  const Outcome forbidden =
      drive_two_ranks({"--only-rank", "1", "--nobody", "save", dir.path(), "1"});
  if (skipped(forbidden)) return;
  INFO(forbidden.output);
  CHECK(forbidden.exit_code == 22);
  CHECK_THAT(forbidden.output, Contains("rank 1: ") && Contains("Permission denied"));
  CHECK_FALSE(std::filesystem::exists(dir / "step_1"));
}

// Kills at random times; whatever is found must be whole and must not be older than what was found
// before.
void storm(int num_kills, std::uint64_t seed, bool two_ranks = false) {
  const TempDir dir;
  std::int64_t newest = 0;
  int num_progressed = 0;
  for (int i = 0; i < num_kills; ++i) {
    const PhiloxBlock random = PhiloxStream({.seed = seed, .purpose = RngPurpose::kTest})
                                   .block(static_cast<std::uint64_t>(i));
    const int start_ms = two_ranks ? 400 : 20;
    const int after_ms = start_ms + static_cast<int>(random[0] % 150);
    const Words words = {"storm", dir.path()};
    const Outcome killed = two_ranks ? drive_two_ranks(words, "", after_ms)
                                     : run_program({kDriver, "storm", dir.path()}, {}, after_ms);
    if (skipped(killed)) return;
    INFO("kill " << i << ": " << killed.output);
    REQUIRE(killed.signal == SIGKILL);
    const Outcome loaded = drive({"load", dir.path()});
    INFO(loaded.output);
    const auto at = loaded.output.find("loaded ");
    if (at == std::string::npos) {
      REQUIRE(loaded.exit_code == 11);
      REQUIRE(newest == 0);
      continue;
    }
    REQUIRE(loaded.exit_code == 0);
    REQUIRE_THAT(loaded.output, !Contains("NOT valid"));
    const std::int64_t found = std::stoll(loaded.output.substr(at + 7));
    REQUIRE(found >= newest);
    num_progressed += found > newest;
    newest = found;
  }
  CHECK(num_progressed > num_kills / 4);
}

TEST_CASE("a crash storm never loses a checkpoint that was seen", "[fault]") {
  storm(20, 1);
}
TEST_CASE("a long crash storm never loses a checkpoint that was seen", "[fault][.long]") {
  storm(300, 2);
}
TEST_CASE("a crash storm under mpirun never loses a checkpoint that was seen", "[fault][.long]") {
  storm(30, 3, true);
}

TEST_CASE("a full disk fails the save, not the run", "[fault]") {
  const TempDir dir;
  for (const bool check : {false, true}) {
    Words words = {"--large", "--tmpfs", "1048576", "save", dir.path(), "1", "2", "3"};
    if (!check) words.insert(words.begin(), "--no-space-check");
    const Outcome outcome = drive(words);
    if (skipped(outcome)) return;
    INFO(outcome.output);
    CHECK(outcome.exit_code == 0);
    CHECK_THAT(without_log(outcome.output), Contains("step 1\n  step_1\nstep 2!\n"));
    CHECK_THAT(outcome.output,
               Contains(check ? "bytes free, the checkpoint needs" : "No space left on device"));
    CHECK_THAT(without_log(outcome.output), Contains("\n  step_1\nstep 3\n  step_1\n  step_3\n"));
  }
  const Outcome last = drive({"--large", "--tmpfs", "1048576", "save", dir.path(), "1", "2"});
  CHECK(last.exit_code == 22);
}

TEST_CASE("a limit on the size of files fails the save, not the run", "[fault]") {
  const TempDir dir;
  const Outcome outcome =
      drive({"--large", "--file-limit", "100000", "save", dir.path(), "1", "2", "3"});
  if (skipped(outcome)) return;
  INFO(outcome.output);
  CHECK(outcome.exit_code == 0);
  CHECK_THAT(outcome.output, Contains("step 2!\n") && Contains("File too large"));
  CHECK_THAT(outcome.output, Contains("step 3\n  step_1\n  step_3\n"));
}

TEST_CASE("a folder that cannot be written is exit code 22 before anything is saved", "[fault]") {
  const TempDir dir;
  SECTION("no permission") {
    REQUIRE(::chmod(dir.path().c_str(), 0555) == 0);
    for (const char* name : {"", "/checkpoints"}) {
      const Outcome outcome = drive({"--nobody", "save", dir.path() + name, "1"});
      if (skipped(outcome)) return;
      INFO(outcome.output);
      CHECK(outcome.exit_code == 22);
      CHECK_THAT(outcome.output, Contains("Permission denied") && !Contains("step 1"));
    }
  }
  SECTION("read-only file system") {
    const Outcome outcome = drive({"--tmpfs", "1048576", "--read-only", "save", dir.path(), "1"});
    if (skipped(outcome)) return;
    INFO(outcome.output);
    CHECK(outcome.exit_code == 22);
    CHECK_THAT(outcome.output, Contains("Read-only file system") && !Contains("step 1"));
  }
  SECTION("a file is in the way") {
    data::write_bytes(dir / "file", "x");
    const Outcome outcome = drive({"save", dir / "file", "1"});
    INFO(outcome.output);
    CHECK(outcome.exit_code == 22);
    CHECK_THAT(outcome.output, Contains("cannot create folder"));
  }
}

TEST_CASE("a checkpoint that no permission lets us read is not an empty folder", "[fault]") {
  const TempDir dir;
  REQUIRE(drive({"save", dir.path(), "1"}).exit_code == 0);
  REQUIRE(::chmod(dir.path().c_str(), 0755) == 0);
  REQUIRE(::chmod((dir / "step_1").c_str(), 0700) == 0);
  const Outcome outcome = drive({"--nobody", "load", dir.path()});
  if (skipped(outcome)) return;
  INFO(outcome.output);
  CHECK(outcome.exit_code == 11);
  CHECK_THAT(outcome.output, Contains("step_1 is NOT valid") && Contains("Permission denied"));
}

TEST_CASE("bytes reach the disk before the name that promises them", "[fault]") {
  const TempDir dir;
  const std::string trace = dir / "trace";
  const std::string saves = dir / "saves";
  std::filesystem::create_directory(saves);
  const Outcome traced = run_program({"strace", "-f", "-y", "-o", trace, "-e",
                                      "trace=write,pwrite64,fsync,rename,renameat,renameat2,close",
                                      kDriver, "save", saves, "7"});
  if (traced.exit_code != 0) {
    WARN("SKIPPED, strace cannot be used here: " << traced.output);
    return;
  }
  const std::string log = data::read_bytes(trace);
  // Each call must come after the one before it; the place of the last is what the next starts
  // from.
  std::size_t at = 0;
  const auto next = [&](const std::string& call, const std::string& argument) {
    for (std::size_t line = at; line < log.size(); line = log.find('\n', line) + 1) {
      const std::string text = log.substr(line, log.find('\n', line) - line);
      if (text.find(" " + call) != std::string::npos && text.find(argument) != std::string::npos &&
          text.find(" = -1") == std::string::npos) {
        at = line + text.size();
        return true;
      }
    }
    return false;
  };
  const std::string unfinished = saves + "/step_7.tmp-";
  CHECK(next("write(", "rank_00000.safetensors>"));
  CHECK(next("fsync(", "rank_00000.safetensors>"));
  CHECK(next("close(", "rank_00000.safetensors>"));
  CHECK(next("write(", "manifest.json.tmp"));
  CHECK(next("fsync(", "manifest.json.tmp"));
  CHECK(next("rename(", "manifest.json\""));
  CHECK(next("fsync(", unfinished));  // the folder that holds both
  CHECK(next("rename(", "\"" + saves + "/step_7\""));
  CHECK(next("fsync(", "<" + saves + ">"));
  CHECK_FALSE(next("write(", "<" + saves + "/step_7"));  // nothing is written once it is named
}

}  // namespace
}  // namespace dsv::test
