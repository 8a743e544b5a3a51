// Communicator: bytes between ranks. A group of one rank is a legal group, so callers never ask for
// the world's size first. Backends: self, loopback (threads of one process), mpi; each can carry
// NCCL for tensors on a GPU.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "dsv/tensor/tensor.h"

namespace dsv::comm {

// Minimum and maximum of floats: NaN wins, so a NaN on one rank is seen by all.
enum class ReduceOp { kSum, kMin, kMax };

// Bytes this rank handed to and took from peers, its own share not counted, and calls. With P
// ranks, n_p the bytes of rank p's part, N = Σ n_p and r this rank:
//   all_to_all_v      sent Σ_{p≠r} bytes for p     received Σ_{p≠r} bytes from p
//   all_gather_v      sent (P−1)·n_r               received N − n_r
//   reduce_scatter_v  sent N − n_r                 received (P−1)·n_r
//   all_reduce        both of the two above, its N bytes split evenly by elements, the first
//                     (num_elements mod P) ranks taking one more
//   broadcast         root sent (P−1)·N            the others received N
//   all_gather_bytes  as all_gather_v
// These are volumes of the operation, the same on every backend; headers and lengths are not
// counted.
struct CommStats {
  std::int64_t bytes_sent = 0;
  std::int64_t bytes_received = 0;
  std::int64_t num_calls = 0;
  // Wall time inside collectives: what a step waits for. Of those on a device only the time that it
  // takes to enqueue them: what they take there is seen with a StreamTimer.
  double seconds = 0;
};

// The latest collective a rank entered on any group split from the same world: what a hang report
// names.
struct LastOp {
  const char* op = "none";
  std::string group;
  std::int64_t seq = 0;    // number of the call on that group, from 1
  std::int64_t bytes = 0;  // of this rank's input
  bool running = false;    // entered and not yet left
  bool queued = false;     // left, and enqueued on a device: it may still be waiting there
};
// "all_reduce call 17 of group cp (4096 bytes), running"; or "done", or "queued on the device"
std::string to_string(const LastOp& op);

// Contract, the same for every backend (tests/comm/contract.h):
// - Every rank of the group makes the same calls in the same order, also with zero rows.
// - Calls block until this rank's part is complete and its buffers may be reused. With tensors on a
//   device they return when the work is enqueued: all this holds in the order of the stream, and
//   barrier() says nothing about work on a device.
// - Tensors are defined and contiguous, and those of one call lie on one device: the host, or the
//   device that the communicator was made for.
// - Inputs and outputs do not overlap, except that all_gather_v may find its input at its own place
//   in the output.
// - `layout` determinism: at a fixed size the same inputs give the same bits on every call and
// rank;
//   sums run in ascending rank order, in f32 for f32 and in f64 for f64.
// - When set_checked(true), each call begins with a header exchange: ranks that disagree on
// operation,
//   dtype or counts get Error(kHang) naming both ranks, on all ranks, before any data moves; the
//   group stays usable.
// - A peer that aborts or dies makes calls throw Error(kHang) or ends the process. A peer that is
// stuck
//   makes calls wait; Watchdog ends that. After a failure on a device every call throws.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Collective: ranks of equal colour (≥ 0) form a group, ordered by key, then by rank. The group
  // inherits checked.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;

  virtual void barrier() = 0;
  virtual void broadcast(const Tensor& data, int root) = 0;
  // In place. f32, f64, i32, i64 or u32.
  virtual void all_reduce(const Tensor& data, ReduceOp op = ReduceOp::kSum) = 0;
  // Rows are slices of dim 0. counts[p] is the number of rows of rank p: the same on all ranks.
  virtual void all_gather_v(const Tensor& in, const Tensor& out,
                            std::span<const std::int64_t> counts) = 0;
  // in holds sum(counts) rows; out, counts[rank] rows, the sum over ranks. dtypes as all_reduce.
  virtual void reduce_scatter_v(const Tensor& in, const Tensor& out,
                                std::span<const std::int64_t> counts) = 0;
  // Row counts per peer; in and out are packed in rank order. Sender and receiver must agree.
  virtual void all_to_all_v(const Tensor& in, std::span<const std::int64_t> send_counts,
                            const Tensor& out, std::span<const std::int64_t> receive_counts) = 0;

  // Host-side control messages of any length: rank i's message at index i, on every rank. Up to
  // 56 bytes travel in one exchange, more in two.
  virtual std::vector<std::string> all_gather_bytes(const std::string& mine) = 0;
  // root's message on every rank.
  std::string broadcast_bytes(const std::string& mine, int root);
  // Host scalars, in ascending rank order.
  double all_reduce(double value, ReduceOp op);
  std::int64_t all_reduce(std::int64_t value, ReduceOp op);

  // Ends the job on all ranks with this exit code as soon as the backend can. self and mpi end the
  // process; loopback throws Error(exit_code) here and Error(kHang) in every peer's calls.
  [[noreturn]] virtual void abort(int exit_code) = 0;

  // Throws Error(kHang) when a collective that was enqueued on a device has failed. For those who
  // waited for the stream and act on the result before the next call, which would throw too.
  virtual void throw_if_failed() const = 0;

  // All ranks of a group agree on it. Loopback starts checked, the others unchecked.
  virtual void set_checked(bool checked) = 0;
  virtual bool checked() const = 0;
  virtual CommStats stats() const = 0;
  // "world", and what split appends; messages and hang reports carry it.
  virtual const std::string& name() const = 0;
  virtual void set_name(std::string name) = 0;
  // Callable from any thread.
  virtual LastOp last_op() const = 0;
  // The same from any thread, also when the communicator is gone.
  virtual std::function<LastOp()> last_op_reader() const = 0;
  virtual const char* backend_name() const = 0;
};

// One rank, no transport.
std::unique_ptr<Communicator> make_self();

// `size` logical ranks in one process, one communicator each; each must be used by one thread of
// its own. Destroying one tells peers that wait for it. For tests under sanitizers.
std::vector<std::unique_ptr<Communicator>> make_loopback(int size);

struct NcclOptions {
  // Sums in ascending rank order, as the contract says. false takes NCCL's own sums where it has
  // them: in any order, and without the ordered ones' pass over memory.
  bool deterministic = true;
};

// Collective: `host` as it is, for tensors on the stream's device too, through NCCL on that stream;
// all groups that are split off use the same stream, which must outlive them. Connects to all
// peers, which takes seconds. A group that is destroyed while an exception is in flight ends what
// all groups have under way; abort() must follow. Throws Error(kConfig) when two ranks use one GPU,
// Error(kEnvironment) in a build without CUDA.
std::unique_ptr<Communicator> make_nccl(std::unique_ptr<Communicator> host, const Stream& stream,
                                        const NcclOptions& options = {});

// The MPI world, or self when no MPI launcher started the process. Initialises MPI once per process
// (MPI_THREAD_FUNNELED: only the constructing thread communicates); the session finalises it on
// destruction, unless an exception is in flight: then peers may be waiting, and abort() must
// follow.
class MpiSession {
 public:
  // Throws Error(kEnvironment) when a launcher announced another number of ranks than MPI finds.
  MpiSession(int* argc, char*** argv);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  // Collective. Ranks of one host are neighbours, whatever the launcher's mapping was: ordered by
  // (lowest MPI rank of the host, MPI rank).
  std::unique_ptr<Communicator> world();
  // Ends all ranks with this exit code: what main() calls when only this rank knows of an error.
  [[noreturn]] void abort(int exit_code);

  bool launched() const { return launched_; }
  // Rank and number of ranks on this host: threads and pinning follow from them.
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }
  const std::string& host() const { return host_; }

 private:
  bool launched_ = false;
  int local_rank_ = 0;
  int local_size_ = 1;
  int host_rank_ = 0;  // lowest MPI rank on this host
  int exceptions_at_start_ = 0;
  std::string host_;
};

}  // namespace dsv::comm
