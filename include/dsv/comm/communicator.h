// Communicator: bytes between ranks. A group of one rank is a legal group, so callers never ask for
// the world's size first. Backends: self, loopback (threads of one process), mpi; nccl comes with
// CUDA.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "dsv/tensor/tensor.h"

namespace dsv::comm {

enum class ReduceOp { kSum, kMin, kMax };

// Bytes this rank handed to and took from peers (its own share not counted), and calls.
struct CommStats {
  std::int64_t bytes_sent = 0;
  std::int64_t bytes_received = 0;
  std::int64_t num_calls = 0;
  double seconds = 0;  // wall time inside collectives: what a step waits for
};

// Contract, the same for every backend (tests/comm/contract.h):
// - Every rank of the group makes the same calls in the same order, also with zero rows.
// - Calls block until this rank's part is complete and its buffers may be reused.
// - Device buffers belong to the communicator's device. Tensors are contiguous.
// - `layout` determinism: at a fixed size the same inputs give the same bits on every call and
// rank;
//   sums run in ascending rank order, in f32 for f32 and in f64 for f64.
// - Each call begins with a header exchange when set_checked(true): ranks that disagree on
// operation,
//   dtype, or counts get Error(kHang) naming both ranks, on all ranks, and no wrong data.
// - A peer that aborts or dies makes calls throw Error(kHang) or ends the process; never a silent
// hang.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Collective: ranks of equal colour form a group, ordered by key, then by rank.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;

  virtual void barrier() = 0;
  virtual void broadcast(const Tensor& data, int root) = 0;
  // In place.
  virtual void all_reduce(const Tensor& data, ReduceOp op = ReduceOp::kSum) = 0;
  // Rows are slices of dim 0. counts[p] is the number of rows of rank p: the same on all ranks.
  virtual void all_gather_v(const Tensor& in, const Tensor& out,
                            std::span<const std::int64_t> counts) = 0;
  // in holds sum(counts) rows; out, counts[rank] rows, the sum over ranks. f32 or f64.
  virtual void reduce_scatter_v(const Tensor& in, const Tensor& out,
                                std::span<const std::int64_t> counts) = 0;
  // Row counts per peer; in and out are packed in rank order. Sender and receiver must agree.
  virtual void all_to_all_v(const Tensor& in, std::span<const std::int64_t> send_counts,
                            const Tensor& out, std::span<const std::int64_t> receive_counts) = 0;

  // Host-side control messages of any length: rank i's message at index i, on every rank.
  virtual std::vector<std::string> all_gather_bytes(const std::string& mine) = 0;
  // root's message on every rank.
  std::string broadcast_bytes(const std::string& mine, int root);
  // Host scalars.
  double all_reduce(double value, ReduceOp op);
  std::int64_t all_reduce(std::int64_t value, ReduceOp op);

  // Ends the job on all ranks with this exit code as soon as the backend can.
  [[noreturn]] virtual void abort(int exit_code) = 0;

  virtual void set_checked(bool checked) = 0;
  virtual CommStats stats() const = 0;
  virtual const char* backend_name() const = 0;
};

// One rank, no transport.
std::unique_ptr<Communicator> make_self();

// `size` logical ranks in one process, one communicator each; each must be used by one thread of
// its own. For tests under sanitizers.
std::vector<std::unique_ptr<Communicator>> make_loopback(int size);

// The MPI world, or self when the process was not started by mpirun. Initialises MPI once per
// process (MPI_THREAD_FUNNELED); the session finalises it on destruction, unless an exception is in
// flight.
class MpiSession {
 public:
  MpiSession(int* argc, char*** argv);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  std::unique_ptr<Communicator> world();
  // Rank and number of ranks on this host: threads and pinning follow from them.
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }
  const std::string& host() const { return host_; }

 private:
  int local_rank_ = 0;
  int local_size_ = 1;
  std::string host_;
};

}  // namespace dsv::comm
