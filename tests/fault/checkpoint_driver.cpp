// A program that saves and loads checkpoints, to be killed, starved of disk, or refused by tests.
//   checkpoint_driver [option…] save DIR STEP…   saves; exit code 22 when the last save failed
//   checkpoint_driver [option…] load DIR         checks the newest valid one bit by bit
//   checkpoint_driver [option…] storm DIR        resumes, then saves step after step until killed
// Options: --sync, --large (state of 12 MB), --no-space-check, --tmpfs BYTES (mounted on DIR in a
// namespace of its own; exit code 77 when that is not permitted), --read-only (that, not writable),
// --file-limit BYTES, --nobody (as user 65534), --only-rank R (these four hold for one rank).
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>

#include "train/checkpoint_state.h"

namespace dsv::test {
namespace {

struct Options {
  train::CheckpointWriter::Options writer;
  bool large = false;
  bool read_only = false;
  bool nobody = false;
  int only_rank = -1;
  std::int64_t tmpfs_bytes = 0;
  std::int64_t file_limit_bytes = 0;
  std::string verb;
  std::string dir;
  std::vector<std::int64_t> steps;
};

[[noreturn]] void skip(const char* what) {
  std::perror(what);
  std::exit(77);
}

Options parse(int argc, char** argv) {
  Options options;
  std::vector<std::string> words;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--sync") {
      options.writer.async = false;
    } else if (arg == "--large") {
      options.large = true;
    } else if (arg == "--no-space-check") {
      options.writer.check_free_space = false;
    } else if (arg == "--read-only") {
      options.read_only = true;
    } else if (arg == "--nobody") {
      options.nobody = true;
    } else if (arg == "--tmpfs" && i + 1 < argc) {
      options.tmpfs_bytes = std::stoll(argv[++i]);
    } else if (arg == "--only-rank" && i + 1 < argc) {
      options.only_rank = std::stoi(argv[++i]);
    } else if (arg == "--file-limit" && i + 1 < argc) {
      options.file_limit_bytes = std::stoll(argv[++i]);
    } else {
      words.push_back(arg);
    }
  }
  if (words.size() < 2)
    throw_error(ExitCode::kConfig, "usage: checkpoint_driver save|load|storm DIR STEP…");
  options.verb = words[0];
  options.dir = words[1];
  for (std::size_t i = 2; i < words.size(); ++i) options.steps.push_back(std::stoll(words[i]));
  return options;
}

void constrain(const Options& options) {
  if (options.tmpfs_bytes > 0) {
    // The mount is this process's own and ends with it.
    if (::unshare(CLONE_NEWNS) != 0) skip("unshare");
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) skip("mount private");
    const std::string size = "size=" + std::to_string(options.tmpfs_bytes);
    const unsigned long flags = options.read_only ? MS_RDONLY : 0;
    if (::mount("tmpfs", options.dir.c_str(), "tmpfs", flags, size.c_str()) != 0)
      skip("mount tmpfs");
  }
  if (options.file_limit_bytes > 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const auto limit = static_cast<rlim_t>(options.file_limit_bytes);
    const rlimit both{limit, limit};
    if (::setrlimit(RLIMIT_FSIZE, &both) != 0) skip("setrlimit");
  }
  if (options.nobody && ::geteuid() == 0) {
    if (::setgroups(0, nullptr) != 0 || ::setresgid(65534, 65534, 65534) != 0 ||
        ::setresuid(65534, 65534, 65534) != 0) {
      skip("setresuid");
    }
  }
}

// Steps below 100 hold the small state, or the large one when asked; "step 2!" in the output is a
// failed save.
int save(const Options& options, comm::Communicator& comm) {
  train::CheckpointWriter writer(options.dir, options.writer, comm);
  for (const std::int64_t step : options.steps) {
    const bool large = options.large && step % 2 == 0;
    const auto pieces =
        make_state(large ? mixed_state() : small_state(), step, comm.rank(), comm.size());
    writer.save(make_meta(step), pieces);
    writer.drain();
    if (comm.rank() == 0) {
      const train::CheckpointStats& stats = writer.stats();
      std::printf("step %lld%s\n", static_cast<long long>(step), stats.last_save_failed ? "!" : "");
      if (stats.last_save_failed) std::printf("%s\n", stats.last_error.c_str());
      for (const std::string& name : names_in(options.dir)) std::printf("  %s\n", name.c_str());
      std::fflush(stdout);
    }
  }
  return writer.stats().last_save_failed ? static_cast<int>(ExitCode::kIo) : 0;
}

std::int64_t load(const Options& options, comm::Communicator& comm, bool required) {
  train::CheckpointReader::Options how;
  how.required = required;
  const auto reader = train::CheckpointReader::open_newest_valid(options.dir, how, comm);
  if (!reader) return 0;
  const std::int64_t step = reader->meta().step;
  const bool large = options.large && step % 2 == 0;
  const std::string difference =
      compare_state(*reader, large ? mixed_state() : small_state(), step, comm.rank(), comm.size());
  if (!difference.empty())
    throw_error(ExitCode::kInternal, "step {} differs in '{}'", step, difference);
  if (comm.rank() == 0) std::printf("loaded %lld\n", static_cast<long long>(step));
  return step;
}

int run(const Options& options, comm::Communicator& comm) {
  if (options.verb == "save") return save(options, comm);
  if (options.verb == "load") return load(options, comm, true) >= 0 ? 0 : 1;
  if (options.verb != "storm") throw_error(ExitCode::kConfig, "no verb '{}'", options.verb);
  train::CheckpointWriter::Options how = options.writer;
  how.resumed_step = load(options, comm, false);
  train::CheckpointWriter writer(options.dir, how, comm);
  for (std::int64_t step = *how.resumed_step + 1;; ++step) {
    const auto pieces = make_state(small_state(), step, comm.rank(), comm.size());
    writer.save(make_meta(step), pieces);
    writer.poll();
  }
}

int main_of(int argc, char** argv) {
  const Options options = parse(argc, argv);
  comm::MpiSession session(&argc, &argv);
  const std::unique_ptr<comm::Communicator> world = session.world();
  if (options.only_rank < 0 || options.only_rank == world->rank()) constrain(options);
  try {
    return run(options, *world);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    if (world->size() > 1) world->abort(static_cast<int>(error.code()));
    return static_cast<int>(error.code());
  }
}

}  // namespace
}  // namespace dsv::test

int main(int argc, char** argv) {
  try {
    return dsv::test::main_of(argc, argv);
  } catch (const dsv::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}
