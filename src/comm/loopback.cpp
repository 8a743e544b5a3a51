// Ranks as threads of one process: peers read each other's buffers between two barriers.
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>

#include "collectives.h"

namespace dsv::comm {
namespace {

// Shared by all groups that come from one make_loopback: one lock for all is enough for tests, and
// an abort must wake waiters of every group.
struct Fabric {
  std::mutex mutex;
  std::condition_variable changed;
  std::string abort_reason;  // empty: alive
};

// One group.
class Hub {
 public:
  Hub(int size, std::shared_ptr<Fabric> fabric)
      : fabric_(std::move(fabric)), size_(size), posted_(static_cast<std::size_t>(size)) {}

  Fabric& fabric() { return *fabric_; }

  // Throws Error(kHang) when a rank aborted, or when one left and so can never arrive.
  void arrive() {
    std::unique_lock lock(fabric_->mutex);
    throw_if_aborted();
    const std::int64_t mine = generation_;
    if (pass_if_last()) return;
    fabric_->changed.wait(lock, [&] {
      return generation_ != mine || !fabric_->abort_reason.empty() || left_rank_ >= 0;
    });
    if (generation_ != mine) return;
    --num_arrived_;
    throw_if_aborted();
    throw_error(ExitCode::kHang, "[comm] rank {} left the group while others wait for it",
                left_rank_);
  }

  // For ranks that are all past one arrive(): nobody can be missing, and nobody may go on before
  // all are done with its buffers, not even when a rank of another group aborts.
  void depart() {
    std::unique_lock lock(fabric_->mutex);
    const std::int64_t mine = generation_;
    if (!pass_if_last()) fabric_->changed.wait(lock, [&] { return generation_ != mine; });
    throw_if_aborted();
  }

  void leave(int rank) {
    const std::lock_guard lock(fabric_->mutex);
    left_rank_ = rank;
    fabric_->changed.notify_all();
  }

  std::span<const Bytes>& posted(int rank) { return posted_[static_cast<std::size_t>(rank)]; }

  // The group of `color` that split number `number` makes; the first of its ranks to ask creates
  // it.
  std::shared_ptr<Hub> child(std::int64_t number, int color, int size) {
    const std::lock_guard lock(fabric_->mutex);
    std::weak_ptr<Hub>& entry = children_[{number, color}];
    std::shared_ptr<Hub> hub = entry.lock();
    if (hub == nullptr) {
      hub = std::make_shared<Hub>(size, fabric_);
      entry = hub;
    }
    return hub;
  }

 private:
  bool pass_if_last() {
    if (++num_arrived_ < size_) return false;
    num_arrived_ = 0;
    ++generation_;
    fabric_->changed.notify_all();
    return true;
  }
  void throw_if_aborted() const {
    if (!fabric_->abort_reason.empty()) {
      throw_error(ExitCode::kHang, "[comm] {}", fabric_->abort_reason);
    }
  }

  std::shared_ptr<Fabric> fabric_;
  int size_;
  int num_arrived_ = 0;
  int left_rank_ = -1;
  std::int64_t generation_ = 0;
  std::vector<std::span<const Bytes>> posted_;
  std::map<std::pair<std::int64_t, int>, std::weak_ptr<Hub>> children_;
};

class Loopback final : public Collectives {
 public:
  Loopback(int rank, int size, std::shared_ptr<Hub> hub)
      : Collectives(rank, size), hub_(std::move(hub)) {}
  ~Loopback() override { hub_->leave(rank()); }

  [[noreturn]] void abort(int exit_code) override {
    const std::string reason =
        format("rank {} of group {} aborted with exit code {}", rank(), name(), exit_code);
    {
      Fabric& fabric = hub_->fabric();
      const std::lock_guard lock(fabric.mutex);
      if (fabric.abort_reason.empty()) fabric.abort_reason = reason;
      fabric.changed.notify_all();
    }
    throw Error(static_cast<ExitCode>(exit_code), "[comm] " + reason);
  }

 private:
  const char* host_name() const override { return "loopback"; }
  void exchange_with_peers(std::span<const Bytes> send, std::span<const Bytes> receive) override {
    hub_->posted(rank()) = send;
    hub_->arrive();
    int wrong_peer = -1;
    std::int64_t wrong_bytes = 0;
    for (int p = 0; p < size(); ++p) {
      if (p == rank()) continue;
      const Bytes to = receive[static_cast<std::size_t>(p)];
      const Bytes from = hub_->posted(p)[static_cast<std::size_t>(rank())];
      if (from.size != to.size) {
        wrong_peer = p;
        wrong_bytes = from.size;
      } else if (to.size > 0) {
        std::memcpy(to.data, from.data, static_cast<std::size_t>(to.size));
      }
    }
    hub_->depart();
    if (wrong_peer >= 0) {
      throw_error(ExitCode::kHang, "[comm] rank {} expects {} bytes from rank {}, which sends {}",
                  rank(), receive[static_cast<std::size_t>(wrong_peer)].size, wrong_peer,
                  wrong_bytes);
    }
  }

  void wait_for_all() override { hub_->arrive(); }

  std::unique_ptr<Collectives> make_split(int color, int key) override {
    struct Choice {
      std::int64_t color, key;
    };
    std::vector<Choice> all(static_cast<std::size_t>(size()));
    all[static_cast<std::size_t>(rank())] = {color, key};
    std::vector<std::int64_t> offsets;
    for (int p = 0; p <= size(); ++p)
      offsets.push_back(p * static_cast<std::int64_t>(sizeof(Choice)));
    gather_in_place(reinterpret_cast<std::byte*>(all.data()), offsets);
    int group_size = 0, group_rank = 0;
    for (int p = 0; p < size(); ++p) {
      const Choice& c = all[static_cast<std::size_t>(p)];
      if (c.color != color) continue;
      ++group_size;
      if (c.key < key || (c.key == key && p < rank())) ++group_rank;
    }
    std::shared_ptr<Hub> hub = hub_->child(seq(), color, group_size);
    hub_->arrive();  // all have their group: nobody can meet a hub that another split left behind
    return std::make_unique<Loopback>(group_rank, group_size, std::move(hub));
  }

  std::shared_ptr<Hub> hub_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_loopback(int size) {
  DSV_CHECK(size >= 1, "[comm] loopback expects at least one rank, got {}", size);
  const auto hub = std::make_shared<Hub>(size, std::make_shared<Fabric>());
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int r = 0; r < size; ++r) {
    ranks.push_back(std::make_unique<Loopback>(r, size, hub));
    ranks.back()->set_checked(true);
  }
  return ranks;
}

}  // namespace dsv::comm
