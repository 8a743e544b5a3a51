#include "dsv/comm/communicator.h"

#include <cstring>

#include "reduce_in_order.h"

namespace dsv::comm {
namespace {

// Host scalars travel as messages, so that a backend whose tensors live on a device needs no copy.
template <typename T>
T reduce_scalar(Communicator& comm, T value, DType dtype, ReduceOp op) {
  std::string mine(sizeof(T), '\0');
  std::memcpy(mine.data(), &value, sizeof(T));
  const std::vector<std::string> all = comm.all_gather_bytes(mine);
  std::vector<T> values(all.size());
  std::vector<const std::byte*> parts;
  for (std::size_t p = 0; p < all.size(); ++p) {
    DSV_CHECK(all[p].size() == sizeof(T), "[comm] expected {} bytes from rank {}, got {}",
              sizeof(T), p, all[p].size());
    std::memcpy(&values[p], all[p].data(), sizeof(T));
    parts.push_back(reinterpret_cast<const std::byte*>(&values[p]));
  }
  T out{};
  reduce_in_order(parts, reinterpret_cast<std::byte*>(&out), 1, dtype, op);
  return out;
}

}  // namespace

std::string to_string(const LastOp& op) {
  if (op.seq == 0) return "no collective yet";
  return format("{} call {} of group {} ({} bytes), {}", op.op, op.seq, op.group, op.bytes,
                op.running  ? "running"
                : op.queued ? "queued on the device"
                            : "done");
}

std::string Communicator::broadcast_bytes(const std::string& mine, int root) {
  DSV_CHECK(0 <= root && root < size(), "[comm] broadcast_bytes expects a root in [0, {}), got {}",
            size(), root);
  return all_gather_bytes(rank() == root ? mine : std::string())[static_cast<std::size_t>(root)];
}

double Communicator::all_reduce(double value, ReduceOp op) {
  return reduce_scalar(*this, value, DType::kF64, op);
}

std::int64_t Communicator::all_reduce(std::int64_t value, ReduceOp op) {
  return reduce_scalar(*this, value, DType::kI64, op);
}

}  // namespace dsv::comm
