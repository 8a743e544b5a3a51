// A communicator for the contract's cases when its collectives are to run on a device: the cases'
// tensors lie on the host, so each call takes them there, runs, and brings them back. What lies
// around a tensor is guarded there too, and its address there is not always a round one.
#pragma once

#include "comm/contract_support.h"

namespace contract {

// Of a device.
struct HostedMemory {
  std::function<Tensor(std::int64_t num_bytes)> allocate;  // U8
  // Between host and device, either way; ends when the bytes are there.
  std::function<void(const Tensor& from, const Tensor& to)> copy;
};

class HostedCommunicator final : public Communicator {
 public:
  HostedCommunicator(std::unique_ptr<Communicator> inner, const HostedMemory& memory)
      : inner_(std::move(inner)), memory_(memory) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  std::unique_ptr<Communicator> split(int color, int key) override {
    return std::make_unique<HostedCommunicator>(inner_->split(color, key), memory_);
  }
  void barrier() override { inner_->barrier(); }
  void broadcast(const Tensor& data, int root) override {
    run({&data}, [&](const std::vector<Tensor>& on) { inner_->broadcast(on[0], root); });
  }
  using Communicator::all_reduce;
  void all_reduce(const Tensor& data, ReduceOp op) override {
    run({&data}, [&](const std::vector<Tensor>& on) { inner_->all_reduce(on[0], op); });
  }
  void all_gather_v(const Tensor& in, const Tensor& out,
                    std::span<const std::int64_t> counts) override {
    run({&out, &in},
        [&](const std::vector<Tensor>& on) { inner_->all_gather_v(on[1], on[0], counts); });
  }
  void reduce_scatter_v(const Tensor& in, const Tensor& out,
                        std::span<const std::int64_t> counts) override {
    run({&in, &out},
        [&](const std::vector<Tensor>& on) { inner_->reduce_scatter_v(on[0], on[1], counts); });
  }
  void all_to_all_v(const Tensor& in, std::span<const std::int64_t> send_counts, const Tensor& out,
                    std::span<const std::int64_t> receive_counts) override {
    run({&in, &out}, [&](const std::vector<Tensor>& on) {
      inner_->all_to_all_v(on[0], send_counts, on[1], receive_counts);
    });
  }
  std::vector<std::string> all_gather_bytes(const std::string& mine) override {
    return inner_->all_gather_bytes(mine);
  }
  [[noreturn]] void abort(int exit_code) override {
    inner_->abort(exit_code);
    std::terminate();  // never reached; the compiler does not see it through the pointer
  }
  void throw_if_failed() const override { inner_->throw_if_failed(); }
  void set_checked(bool checked) override { inner_->set_checked(checked); }
  bool checked() const override { return inner_->checked(); }
  dsv::comm::CommStats stats() const override { return inner_->stats(); }
  const std::string& name() const override { return inner_->name(); }
  void set_name(std::string name) override { inner_->set_name(std::move(name)); }
  dsv::comm::LastOp last_op() const override { return inner_->last_op(); }
  std::function<dsv::comm::LastOp()> last_op_reader() const override {
    return inner_->last_op_reader();
  }
  const char* backend_name() const override { return inner_->backend_name(); }

 private:
  static constexpr std::uint8_t kGuard = 0xcc;
  static constexpr std::int64_t kAround = 64;

  // The bytes of a tensor on the host, guards around them, and both on the device.
  struct Block {
    std::uint8_t* host = nullptr;
    std::int64_t size = 0, before = 0;
    std::vector<std::uint8_t> staged;
    Tensor device;

    Tensor staged_tensor() {
      return Tensor(staged.data(), DType::kU8, {static_cast<std::int64_t>(staged.size())});
    }
    bool holds(const void* p, std::int64_t n) const {
      const auto* b = static_cast<const std::uint8_t*>(p);
      return std::less_equal<>()(host, b) && std::less_equal<>()(b + n, host + size);
    }
  };

  static std::int64_t extent_bytes(const Tensor& t) {
    if (t.num_elements() == 0) return 0;
    std::int64_t last = 0;
    for (int i = 0; i < t.num_dims(); ++i) last += (t.dim(i) - 1) * t.stride(i);
    return (last + 1) * dsv::size_of(t.dtype());
  }

  // A tensor that lies in one before it becomes a view of that one's copy.
  void run(std::initializer_list<const Tensor*> tensors,
           const std::function<void(const std::vector<Tensor>&)>& call) {
    std::vector<Block> blocks;
    std::vector<Tensor> moved;
    for (const Tensor* t : tensors) moved.push_back(t->defined() ? move(*t, blocks) : *t);
    try {
      call(moved);
    } catch (const dsv::Error&) {
      bring_back(blocks);
      throw;
    }
    bring_back(blocks);
    inner_->throw_if_failed();
  }

  Tensor move(const Tensor& t, std::vector<Block>& blocks) {
    const std::int64_t size = extent_bytes(t);
    for (const Block& b : blocks) {
      if (size > 0 && b.holds(t.raw(), size)) return place(t, b);
    }
    Block block{.host = static_cast<std::uint8_t*>(t.raw()),
                .size = size,
                .before = kAround + 8 * (num_moved_++ % 2)};
    block.staged.assign(static_cast<std::size_t>(block.before + size + kAround), kGuard);
    if (size > 0) {
      std::memcpy(block.staged.data() + block.before, block.host, static_cast<std::size_t>(size));
    }
    block.device = memory_.allocate(block.before + size + kAround);
    memory_.copy(block.staged_tensor(), block.device);
    const Tensor out = place(t, block);
    blocks.push_back(std::move(block));
    return out;
  }

  static Tensor place(const Tensor& t, const Block& b) {
    const std::int64_t offset =
        b.size > 0 ? static_cast<const std::uint8_t*>(t.raw()) - b.host : std::int64_t{0};
    return t.moved_to(b.device.u8() + b.before + offset, b.device.device(), b.device.owner());
  }

  void bring_back(std::vector<Block>& blocks) {
    for (Block& b : blocks) {
      memory_.copy(b.device, b.staged_tensor());
      const auto begin = b.staged.begin() + b.before;
      const auto is_guard = [](std::uint8_t x) { return x == kGuard; };
      CONTRACT_EXPECT(std::all_of(b.staged.begin(), begin, is_guard) &&
                          std::all_of(begin + b.size, b.staged.end(), is_guard),
                      "bytes around {} bytes on the device were written", b.size);
      std::copy(begin, begin + b.size, b.host);
    }
  }

  std::unique_ptr<Communicator> inner_;
  HostedMemory memory_;
  std::int64_t num_moved_ = 0;
};

}  // namespace contract
