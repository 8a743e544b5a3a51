#include "dsv/train/checkpoint_writer.h"

#include <atomic>
#include <chrono>
#include <cstring>

#include "checkpoint_agree.h"
#include "checkpoint_commit.h"
#include "checkpoint_files.h"
#include "checkpoint_folder.h"
#include "checkpoint_snapshot.h"
#include "checkpoint_worker.h"
#include "dsv/base/check_math.h"
#include "dsv/base/log.h"

namespace dsv::train {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// One save from snapshot to commit. The worker owns `written`, `crcs` and `write_seconds` until
// `done`.
struct Flight {
  Manifest manifest;       // chunk CRCs are filled at the commit
  std::string unfinished;  // name of the folder in dir
  std::int64_t num_bytes = 0;
  Clock::time_point snapshot_at;
  double blocked_seconds = 0;
  Verdict written;
  std::vector<std::uint32_t> crcs;
  double write_seconds = 0;
  std::atomic<bool> done{false};
};

void write_and_read_back(const std::string& folder, const char* image, bool verify,
                         const FaultSite& site, Flight& flight) {
  const std::string path = folder + '/' + shard_name(site.rank);
  flight.crcs = write_checked(path, image, flight.num_bytes, site);
  sync_folder(folder);
  if (!verify) return;
  const OpenFile file = OpenFile::for_reading(path);
  if (file.num_bytes() != flight.num_bytes) {
    throw_error(ExitCode::kIo, "[checkpoint] '{}' has {} bytes, {} were written", path,
                file.num_bytes(), flight.num_bytes);
  }
  forget_pages(file);
  std::vector<char> buffer;
  for (std::size_t c = 0; c < flight.crcs.size(); ++c) {
    check_chunk(file, flight.num_bytes, static_cast<std::int64_t>(c), flight.crcs[c], buffer);
  }
}

}  // namespace

struct CheckpointWriter::Impl {
  Impl(std::string dir_, const Options& options_, comm::Communicator& comm_)
      : dir(std::move(dir_)), options(options_), comm(comm_), worker(options_.async) {}

  std::string dir;
  Options options;
  comm::Communicator& comm;
  CheckpointStats stats;
  OpenFile lock;  // of the folder; rank 0
  SnapshotBuffer buffer;
  std::unique_ptr<Flight> flight;
  CheckpointWorker worker;  // last: its jobs use the members above

  bool is_root() const { return comm.rank() == 0; }
  void begin(const CheckpointMeta& meta, std::span<const StatePiece> pieces);
  bool reserve_space(Flight& next);
  void finish();
  void commit(Flight& ended);
  void count_failure(const Flight& ended, const std::string& reason);
};

void CheckpointWriter::Impl::count_failure(const Flight& ended, const std::string& reason) {
  ++stats.num_failed;
  stats.last_save_failed = true;
  stats.last_error = reason;
  if (is_root()) {
    log_error("[checkpoint] step {} was NOT saved ({} failed so far), training goes on: {}",
              ended.manifest.meta.step, stats.num_failed, reason);
  }
}

// Memory on this rank and room on disk for all; one decision of all ranks.
bool CheckpointWriter::Impl::reserve_space(Flight& next) {
  std::int64_t free = 0;
  const Verdict reserved = agree(comm, attempt([&] {
                                   buffer.reserve(next.num_bytes, options.stream.device);
                                   free = options.check_free_space ? free_bytes(dir) : INT64_MAX;
                                 }));
  stats.num_snapshot_allocations = buffer.num_allocations();
  if (!reserved.ok()) {
    count_failure(next, reserved.message);
    return false;
  }
  const std::int64_t needed = comm.all_reduce(next.num_bytes, comm::ReduceOp::kSum);
  free = comm.all_reduce(free, comm::ReduceOp::kMin);
  if (needed > free) {
    count_failure(next,
                  format("'{}' has {} bytes free, the checkpoint needs {}", dir, free, needed));
    return false;
  }
  return true;
}

void CheckpointWriter::Impl::begin(const CheckpointMeta& meta, std::span<const StatePiece> pieces) {
  auto next = std::make_unique<Flight>();
  const Verdict usable = attempt([&] {
    DSV_CHECK(meta.step >= 0 && !meta.run_id.empty(), "[checkpoint] step {} of run '{}'", meta.step,
              meta.run_id);
    for (const StatePiece& piece : pieces) check_piece(piece);
  });
  agree(comm, usable).throw_if_failed();
  const std::vector<std::string> held = comm.all_gather_bytes(describe_pieces(meta, pieces));
  // From the same texts, so the same outcome on every rank, errors included.
  next->manifest.arrays = merge_pieces(held);
  next->manifest.files.resize(held.size());
  next->manifest.meta = meta;
  next->manifest.save_id = comm.broadcast_bytes(is_root() ? random_id() : std::string(), 0);
  next->unfinished = step_name(meta.step) + ".tmp-" + next->manifest.save_id;
  const ShardPlan plan =
      plan_shards(next->manifest, comm.rank())[static_cast<std::size_t>(comm.rank())];
  next->num_bytes = plan.num_bytes;
  if (!reserve_space(*next)) return;

  const std::string folder = dir + '/' + next->unfinished;
  const Verdict made = attempt([&] {
    if (is_root()) make_folder(folder);
  });
  if (const Verdict shared = share(comm, made, 0); !shared.ok()) {
    count_failure(*next, shared.message);
    return;
  }
  next->written = attempt([&] {
    std::memcpy(buffer.data(), plan.head.data(), plan.head.size());
    copy_pieces(next->manifest, comm.rank(), pieces, options.stream, buffer.data());
  });
  next->snapshot_at = Clock::now();
  flight = std::move(next);
  worker.submit([this, folder, site = FaultSite{comm.rank(), meta.step}] {
    if (flight->written.ok()) {
      flight->written = attempt([&] {
        write_and_read_back(folder, buffer.data(), options.verify_after_save, site, *flight);
      });
    }
    flight->write_seconds = seconds_since(flight->snapshot_at);
    flight->done.store(true, std::memory_order_release);
  });
}

// The save in flight is written on this rank, or the worker is waited for.
void CheckpointWriter::Impl::finish() {
  worker.wait();
  if (flight == nullptr) return;
  const std::unique_ptr<Flight> ended = std::move(flight);
  const Clock::time_point start = Clock::now();
  commit(*ended);
  stats.last_write_seconds = ended->write_seconds;
  stats.last_blocked_seconds = ended->blocked_seconds + seconds_since(start);
}

void CheckpointWriter::Impl::commit(Flight& ended) {
  const FaultSite site{comm.rank(), ended.manifest.meta.step};
  Verdict outcome = agree(comm, ended.written);
  if (outcome.ok()) {
    Json mine = Json::array();
    mine.push_back(ended.num_bytes);
    for (const std::uint32_t crc : ended.crcs) mine.push_back(crc);
    const std::vector<std::string> reports = comm.all_gather_bytes(mine.dump());
    outcome = attempt([&] {
      if (!is_root()) {
        // The points of rank 0's work, so that a test can end this rank meanwhile.
        for (const char* point : {"ckpt_manifest", "ckpt_rename", "ckpt_commit"}) {
          fault_point(point, site.rank, site.step);
        }
        return;
      }
      for (std::size_t f = 0; f < reports.size(); ++f) {
        const Json report = parse_json(reports[f], "report of a rank");
        ShardFile& file = ended.manifest.files[f];
        file.num_bytes = report.as_array()[0].as_int();
        for (std::size_t c = 1; c < report.size(); ++c) {
          file.chunk_crcs.push_back(static_cast<std::uint32_t>(report.as_array()[c].as_int()));
        }
      }
      const bool first = stats.num_saved == 0 && options.resumed_step.has_value();
      commit_folder({.dir = dir,
                     .unfinished = ended.unfinished,
                     .verify = options.verify_after_save,
                     .newest_of_history = first ? *options.resumed_step : ended.manifest.meta.step},
                    ended.manifest, site);
    });
    outcome = share(comm, outcome, 0);
  }
  if (!outcome.ok()) {
    if (is_root()) {
      const Verdict removed = attempt([&] { remove_tree(dir + '/' + ended.unfinished); });
      if (!removed.ok()) log_warn("{}", removed.message);
    }
    count_failure(ended, outcome.message);
    return;
  }
  ++stats.num_saved;
  stats.last_save_failed = false;
  stats.last_saved_step = ended.manifest.meta.step;
  stats.bytes_written += ended.num_bytes;
  if (!is_root()) return;
  log_info("[checkpoint] saved {}/{} in {:.2f} s", dir, step_name(ended.manifest.meta.step),
           ended.write_seconds);
  const Verdict retired = attempt([&] {
    for (const std::string& path : retire_old(dir, options.keep)) {
      worker.submit([path] {
        const Verdict removed = attempt([&] { remove_tree(path); });
        if (!removed.ok()) log_warn("{}", removed.message);
      });
    }
  });
  if (!retired.ok()) log_warn("{}", retired.message);
}

CheckpointWriter::CheckpointWriter(std::string dir, const Options& options,
                                   comm::Communicator& comm)
    : impl_(std::make_unique<Impl>(std::move(dir), options, comm)) {
  read_faults_from_environment();
  DSV_CHECK(options.keep >= 1, "[checkpoint] expected keep ≥ 1, got {}", options.keep);
  impl_->lock = prepare_checkpoint_folder(impl_->dir, comm);
}

CheckpointWriter::~CheckpointWriter() {
  impl_->worker.wait();
  if (impl_->flight != nullptr) {
    log_error("[checkpoint] step {} was NOT saved: the writer ended before drain()",
              impl_->flight->manifest.meta.step);
  }
}

void CheckpointWriter::save(const CheckpointMeta& meta, std::span<const StatePiece> pieces) {
  const Clock::time_point start = Clock::now();
  impl_->finish();
  const Clock::time_point begun = Clock::now();
  impl_->begin(meta, pieces);
  if (impl_->flight != nullptr) impl_->flight->blocked_seconds = seconds_since(begun);
  if (!impl_->options.async) impl_->finish();
  impl_->stats.blocked_seconds += seconds_since(start);
}

void CheckpointWriter::poll() {
  if (impl_->flight == nullptr) return;
  const Clock::time_point start = Clock::now();
  const std::int64_t done = impl_->flight->done.load(std::memory_order_acquire) ? 1 : 0;
  if (impl_->comm.all_reduce(done, comm::ReduceOp::kMin) == 1) impl_->finish();
  impl_->stats.blocked_seconds += seconds_since(start);
}

void CheckpointWriter::drain() {
  const Clock::time_point start = Clock::now();
  impl_->finish();
  impl_->stats.blocked_seconds += seconds_since(start);
}

const CheckpointStats& CheckpointWriter::stats() const {
  return impl_->stats;
}

}  // namespace dsv::train
