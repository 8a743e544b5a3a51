// What the backends share: argument checks, headers, counters, the steps of each collective. A
// backend adds how bytes move between different ranks. Tensors on the host go through the backend
// itself, those on a device through the transport that was attached for it.
#pragma once

#include <chrono>

#include "header.h"
#include "op_log.h"
#include "transport.h"

namespace dsv::comm {

class Collectives : public Communicator, protected Transport {
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
  void throw_if_failed() const final;
  void set_checked(bool checked) final { checked_ = checked; }
  bool checked() const final { return checked_; }
  CommStats stats() const final { return stats_; }
  const std::string& name() const final { return name_; }
  void set_name(std::string name) final { name_ = std::move(name); }
  LastOp last_op() const final { return log_->last(); }
  std::function<LastOp()> last_op_reader() const final {
    return [log = log_] { return log->last(); };
  }
  const char* backend_name() const final;

  // Tensors on its device go through it from now on, also in groups that are split off. Once.
  void attach(std::unique_ptr<DeviceTransport> device);
  // all_gather_bytes for what a backend has to agree on itself: neither announced nor counted.
  std::vector<std::string> gather_messages(const std::string& mine);
  const std::shared_ptr<OpLog>& op_log() const { return log_; }

 protected:
  Collectives(int rank, int size) : rank_(rank), size_(size) {}

  // Between ranks, on the host. Spans have one entry per rank; the own entry is ignored. Errors
  // throw Error(kHang).
  virtual void exchange_with_peers(std::span<const Bytes> send, std::span<const Bytes> receive) = 0;
  // Rank p's part lies at [offsets[p], offsets[p + 1]) of out; the own part is there already.
  virtual void gather_in_place(std::byte* out, std::span<const std::int64_t> offsets);
  void spread(Bytes data, int root) override;
  virtual void wait_for_all() = 0;
  virtual std::unique_ptr<Collectives> make_split(int color, int key) = 0;
  virtual const char* host_name() const = 0;

  std::int64_t seq() const { return seq_; }

 private:
  class Call;

  // The transport of host tensors.
  Device device() const final { return {}; }
  TransportLimits limits() const final;
  void exchange(std::span<const Bytes> send, std::span<const Bytes> receive) final;
  void gather(const std::byte* own, std::byte* out, std::span<const std::int64_t> offsets) final;
  void reduce(const Reduction& reduction) final;
  std::byte* scratch(std::int64_t bytes) final;

  Transport& transport_for(const Tensor& t);
  void agree(const Header& mine);
  void agree_on_counts(std::span<const std::int64_t> send, std::span<const std::int64_t> receive);
  void all_reduce_in_order(Transport& via, const Tensor& data, ReduceOp op);
  void reduce_parts(Transport& via, const std::byte* in, std::span<const std::int64_t> offsets,
                    std::byte* out, DType dtype, ReduceOp op);

  int rank_;
  int size_;
  bool checked_ = false;
  std::int64_t seq_ = 0;
  std::string name_ = "world";
  std::shared_ptr<OpLog> log_ = std::make_shared<OpLog>();
  CommStats stats_;
  std::vector<std::byte> scratch_;
  std::unique_ptr<DeviceTransport> device_;  // null: host tensors only
};

}  // namespace dsv::comm
