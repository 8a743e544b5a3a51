// What the host backends share: argument checks, headers, counters, ordered reductions. A backend
// adds how bytes move between different ranks.
#pragma once

#include <chrono>
#include <cstddef>

#include "dsv/comm/communicator.h"
#include "header.h"
#include "op_log.h"

namespace dsv::comm {

struct Bytes {
  std::byte* data = nullptr;
  std::int64_t size = 0;
};

class Collectives : public Communicator {
 public:
  int rank() const final { return rank_; }
  int size() const final { return size_; }
  std::unique_ptr<Communicator> split(int color, int key) final;
  void barrier() final;
  void broadcast(const Tensor& data, int root) final;
  using Communicator::all_reduce;
  void all_reduce(const Tensor& data, ReduceOp op) final;
  void all_gather_v(const Tensor& in, const Tensor& out,
                    std::span<const std::int64_t> counts) final;
  void reduce_scatter_v(const Tensor& in, const Tensor& out,
                        std::span<const std::int64_t> counts) final;
  void all_to_all_v(const Tensor& in, std::span<const std::int64_t> send_counts, const Tensor& out,
                    std::span<const std::int64_t> receive_counts) final;
  std::vector<std::string> all_gather_bytes(const std::string& mine) final;
  void set_checked(bool checked) final { checked_ = checked; }
  bool checked() const final { return checked_; }
  CommStats stats() const final { return stats_; }
  const std::string& name() const final { return name_; }
  void set_name(std::string name) final { name_ = std::move(name); }
  LastOp last_op() const final { return log_->last(); }

 protected:
  Collectives(int rank, int size) : rank_(rank), size_(size) {}

  // The transport. Spans have one entry per rank; the own entry is ignored. Errors throw
  // Error(kHang).
  virtual void exchange(std::span<const Bytes> send, std::span<const Bytes> receive) = 0;
  // Rank p's part lies at [offsets[p], offsets[p + 1]) of out; the own part is there already.
  virtual void gather(std::byte* out, std::span<const std::int64_t> offsets);
  virtual void spread(Bytes data, int root);
  virtual void wait_for_all() = 0;
  virtual std::unique_ptr<Collectives> make_split(int color, int key) = 0;

  std::int64_t seq() const { return seq_; }

 private:
  class Call;

  void agree(const Header& mine);
  void agree_on_counts(std::span<const std::int64_t> send, std::span<const std::int64_t> receive);
  void reduce_parts(const std::byte* in, std::span<const std::int64_t> offsets, std::byte* out,
                    DType dtype, ReduceOp op);
  std::byte* scratch(std::int64_t bytes);

  int rank_;
  int size_;
  bool checked_ = false;
  std::int64_t seq_ = 0;
  std::string name_ = "world";
  std::shared_ptr<OpLog> log_ = std::make_shared<OpLog>();
  CommStats stats_;
  std::vector<std::byte> scratch_;
};

}  // namespace dsv::comm
