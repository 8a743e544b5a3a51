#include "collectives.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

#include "arguments.h"
#include "dsv/base/crc32c.h"
#include "reduce_in_order.h"

namespace dsv::comm {
namespace {

using Counts = std::span<const std::int64_t>;

// Of host tensors. From 0.25 MiB to 8 MiB per peer hardly matters (docs/distributed.md), less costs
// calls.
constexpr TransportLimits kHostLimits = {.scratch = std::int64_t{64} << 20,
                                         .chunk = std::int64_t{1} << 20,
                                         .one_exchange = std::int64_t{1} << 14};
// Parts that are received for a reduction begin at multiples of it.
constexpr std::int64_t kSlotAlignment = 16;

constexpr std::size_t kInlineBytes = 56;
struct Frame {
  std::uint64_t size = 0;
  std::array<char, kInlineBytes> text{};
};
static_assert(sizeof(Frame) == 64);

std::byte* bytes_of(const Tensor& t) {
  return static_cast<std::byte*>(t.raw());
}

void copy_bytes(std::byte* to, const std::byte* from, std::int64_t n) {
  if (n > 0 && to != from) std::memcpy(to, from, static_cast<std::size_t>(n));
}

std::int64_t total(Counts counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

// Ends of the parts in units of `unit`, from 0.
std::vector<std::int64_t> offsets_of(Counts counts, std::int64_t unit) {
  std::vector<std::int64_t> offsets(counts.size() + 1, 0);
  for (std::size_t p = 0; p < counts.size(); ++p) {
    offsets[p + 1] = offsets[p] + checked_mul(counts[p], unit);
  }
  return offsets;
}

std::vector<std::int64_t> even_split(std::int64_t n, int parts) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(parts), n / parts);
  for (std::int64_t p = 0; p < n % parts; ++p) ++counts[static_cast<std::size_t>(p)];
  return counts;
}

// Ends of the shares of n elements, which are as even as multiples of `unit` elements allow.
std::vector<std::int64_t> share_offsets(std::int64_t n, std::int64_t unit, int parts) {
  std::vector<std::int64_t> offsets = offsets_of(even_split(ceil_div(n, unit), parts), unit);
  for (std::int64_t& end : offsets) end = std::min(end, n);
  return offsets;
}

std::vector<std::int64_t> scaled(Counts offsets, std::int64_t unit) {
  std::vector<std::int64_t> out;
  for (const std::int64_t x : offsets) out.push_back(checked_mul(x, unit));
  return out;
}

std::uint32_t digest(Counts counts) {
  return crc32c(counts.data(), counts.size_bytes());
}

}  // namespace

// Number, header, time and bytes of one collective.
class Collectives::Call {
 public:
  Call(Collectives& comm, Header header, std::int64_t input_bytes)
      : comm_(comm),
        on_device_(header.place == Place::kDevice),
        start_(std::chrono::steady_clock::now()) {
    comm_.throw_if_failed();
    header.seq = ++comm_.seq_;
    comm_.log_->enter(op_name(header.op), comm_.name_, header.seq, input_bytes);
    ++comm_.stats_.num_calls;
    if (comm_.checked_) {
      try {
        comm_.agree(header);
      } catch (...) {
        finish();  // an object that was never constructed has no destructor
        throw;
      }
    }
  }
  ~Call() { finish(); }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  void count(std::int64_t sent, std::int64_t received) {
    comm_.stats_.bytes_sent += sent;
    comm_.stats_.bytes_received += received;
  }
  void count_gather(std::int64_t own, std::int64_t all) {
    count((comm_.size_ - 1) * own, all - own);
  }
  void count_scatter(std::int64_t own, std::int64_t all) {
    count(all - own, (comm_.size_ - 1) * own);
  }

 private:
  void finish() {
    const std::chrono::duration<double> d = std::chrono::steady_clock::now() - start_;
    comm_.stats_.seconds += d.count();
    comm_.log_->leave(on_device_);
  }

  Collectives& comm_;
  bool on_device_;
  std::chrono::steady_clock::time_point start_;
};

TransportLimits Collectives::limits() const {
  return kHostLimits;
}

void Collectives::exchange(std::span<const Bytes> send, std::span<const Bytes> receive) {
  const auto me = static_cast<std::size_t>(rank_);
  copy_bytes(receive[me].data, send[me].data, send[me].size);
  exchange_with_peers(send, receive);
}

void Collectives::gather(const std::byte* own, std::byte* out, Counts offsets) {
  const auto me = static_cast<std::size_t>(rank_);
  copy_bytes(out + offsets[me], own, offsets[me + 1] - offsets[me]);
  gather_in_place(out, offsets);
}

void Collectives::gather_in_place(std::byte* out, Counts offsets) {
  std::vector<Bytes> send, receive;
  const auto part = [&](std::size_t p) {
    return Bytes{out + offsets[p], offsets[p + 1] - offsets[p]};
  };
  for (std::size_t p = 0; p + 1 < offsets.size(); ++p) {
    send.push_back(part(static_cast<std::size_t>(rank_)));
    receive.push_back(part(p));
  }
  exchange_with_peers(send, receive);
}

void Collectives::spread(Bytes data, int root) {
  std::vector<Bytes> send(static_cast<std::size_t>(size_)),
      receive(static_cast<std::size_t>(size_));
  if (rank_ == root) {
    std::fill(send.begin(), send.end(), data);
  } else {
    receive[static_cast<std::size_t>(root)] = data;
  }
  exchange_with_peers(send, receive);
}

void Collectives::reduce(const Reduction& r) {
  std::vector<const std::byte*> parts;
  for (int p = 0; p < r.num_parts; ++p) {
    parts.push_back(p == r.own_rank ? r.own : r.slots + p * r.stride);
  }
  reduce_in_order(parts, r.out, r.num_elements, r.dtype, r.op);
}

std::byte* Collectives::scratch(std::int64_t bytes) {
  if (static_cast<std::int64_t>(scratch_.size()) < bytes) {
    scratch_.resize(static_cast<std::size_t>(bytes));
  }
  return scratch_.data();
}

void Collectives::attach(std::unique_ptr<DeviceTransport> device) {
  DSV_CHECK(device_ == nullptr, "[comm] group {} has a device already", name_);
  device_ = std::move(device);
}

const char* Collectives::backend_name() const {
  return device_ != nullptr ? device_->name() : host_name();
}

void Collectives::throw_if_failed() const {
  if (device_ != nullptr) device_->throw_if_failed();
}

Transport& Collectives::transport_for(const Tensor& t) {
  if (device_ != nullptr && t.device() == device_->device()) return *device_;
  return *this;
}

// Every rank sees every header and takes the same decision, so all throw or none.
void Collectives::agree(const Header& mine) {
  std::vector<Header> all(static_cast<std::size_t>(size_));
  all[static_cast<std::size_t>(rank_)] = mine;
  const std::vector<std::int64_t> ones(all.size(), 1);
  gather_in_place(reinterpret_cast<std::byte*>(all.data()), offsets_of(ones, sizeof(Header)));
  for (std::size_t p = 1; p < all.size(); ++p) {
    if (all[p] == all[0]) continue;
    throw_error(
        ExitCode::kHang,
        "[comm] ranks of group {} disagree: rank 0 called {}, rank {} called {}; every rank must "
        "make the same calls in the same order",
        name_, describe(all[0]), p, describe(all[p]));
  }
}

void Collectives::agree_on_counts(Counts send, Counts receive) {
  const std::int64_t n = size_;
  const auto width = static_cast<std::size_t>(2 * n);
  std::vector<std::int64_t> all(static_cast<std::size_t>(n) * width);
  const auto row = [&](std::int64_t p) { return all.data() + static_cast<std::size_t>(p) * width; };
  std::copy(send.begin(), send.end(), row(rank_));
  std::copy(receive.begin(), receive.end(), row(rank_) + n);
  const std::vector<std::int64_t> ones(static_cast<std::size_t>(n), 1);
  gather_in_place(reinterpret_cast<std::byte*>(all.data()),
                  offsets_of(ones, static_cast<std::int64_t>(width * sizeof(std::int64_t))));
  for (std::int64_t from = 0; from < n; ++from) {
    for (std::int64_t to = 0; to < n; ++to) {
      if (row(from)[to] == row(to)[n + from]) continue;
      throw_error(
          ExitCode::kHang,
          "[comm] ranks of group {} disagree in all_to_all_v (call {}): rank {} sends {} rows to "
          "rank {}, which expects {}",
          name_, seq_, from, row(from)[to], to, row(to)[n + from]);
    }
  }
}

// Each rank receives its own part from all peers, a chunk at a time, and adds in rank order. `out`
// may be the own part of `in`. Offsets in elements.
void Collectives::reduce_parts(Transport& via, const std::byte* in, Counts offsets, std::byte* out,
                               DType dtype, ReduceOp op) {
  const auto n = static_cast<std::size_t>(size_);
  const auto me = static_cast<std::size_t>(rank_);
  const std::int64_t width = size_of(dtype);
  const auto length = [&](std::size_t p) { return offsets[p + 1] - offsets[p]; };
  std::int64_t longest = 0;
  for (std::size_t p = 0; p < n; ++p) longest = std::max(longest, length(p));
  const TransportLimits limits = via.limits();
  const std::int64_t most =
      std::min(limits.chunk, limits.scratch / size_) / kSlotAlignment * kSlotAlignment;
  const std::int64_t chunk = std::min(longest, std::max(most, kSlotAlignment) / width);
  const std::int64_t stride = round_up(chunk * width, kSlotAlignment);
  std::byte* const received = size_ > 1 ? via.scratch(stride * size_) : nullptr;

  std::vector<Bytes> send(n), receive(n);
  for (std::int64_t begin = 0; begin < longest; begin += chunk) {
    const auto clipped = [&](std::size_t p) {
      return std::clamp<std::int64_t>(length(p) - begin, 0, chunk);
    };
    const auto part = [&](std::size_t p) { return in + (offsets[p] + begin) * width; };
    for (std::size_t p = 0; p < n; ++p) {
      if (p == me) continue;  // the own part is added where it lies
      // The transport only reads what it sends.
      send[p] = {const_cast<std::byte*>(part(p)), clipped(p) * width};
      receive[p] = {received + static_cast<std::int64_t>(p) * stride, clipped(me) * width};
    }
    via.exchange(send, receive);
    if (clipped(me) == 0) continue;
    via.reduce({.slots = received,
                .stride = stride,
                .own = part(me),
                .own_rank = rank_,
                .num_parts = size_,
                .out = out + begin * width,
                .num_elements = clipped(me),
                .dtype = dtype,
                .op = op});
  }
}

std::unique_ptr<Communicator> Collectives::split(int color, int key) {
  DSV_CHECK(color >= 0, "[comm] split expects a colour ≥ 0, got {}", color);
  const Call call(*this, {.op = Op::kSplit}, 0);
  std::unique_ptr<Collectives> part = make_split(color, key);
  part->checked_ = checked_;
  part->log_ = log_;
  part->name_ = format("{}/{}", name_, color);
  if (device_ != nullptr) part->device_ = device_->split(*part);
  return part;
}

void Collectives::barrier() {
  const Call call(*this, {.op = Op::kBarrier}, 0);
  wait_for_all();
}

void Collectives::broadcast(const Tensor& data, int root) {
  Transport& via = transport_for(data);
  check_tensor("broadcast", data, via.device());
  DSV_CHECK(0 <= root && root < size_, "[comm] broadcast expects a root in [0, {}), got {}", size_,
            root);
  const std::int64_t n = data.num_bytes();
  Header header = header_of(Op::kBroadcast, data, data.num_elements(), size_of(data.dtype()));
  header.detail = static_cast<std::uint32_t>(root);
  Call call(*this, header, n);
  via.spread({bytes_of(data), n}, root);
  if (rank_ == root) {
    call.count((size_ - 1) * n, 0);
  } else {
    call.count(0, n);
  }
}

void Collectives::all_reduce(const Tensor& data, ReduceOp op) {
  Transport& via = transport_for(data);
  check_tensor("all_reduce", data, via.device());
  check_reducible("all_reduce", data);
  const std::int64_t width = size_of(data.dtype());
  Header header = header_of(Op::kAllReduce, data, data.num_elements(), width);
  header.reduce = static_cast<std::uint8_t>(op);
  Call call(*this, header, data.num_bytes());
  if (size_ > 1 && !via.try_all_reduce(bytes_of(data), data.num_elements(), data.dtype(), op)) {
    all_reduce_in_order(via, data, op);
  }
  const std::int64_t own =
      even_split(data.num_elements(), size_)[static_cast<std::size_t>(rank_)] * width;
  call.count_scatter(own, data.num_bytes());
  call.count_gather(own, data.num_bytes());
}

void Collectives::all_reduce_in_order(Transport& via, const Tensor& data, ReduceOp op) {
  const TransportLimits limits = via.limits();
  const std::int64_t n = data.num_bytes(), width = size_of(data.dtype());
  std::byte* const x = bytes_of(data);
  if (n * size_ <= limits.one_exchange) {
    std::byte* const all = via.scratch(n * size_);
    const std::vector<std::int64_t> ones(static_cast<std::size_t>(size_), 1);
    via.gather(x, all, offsets_of(ones, n));
    via.reduce({.slots = all,
                .stride = n,
                .own = x,
                .own_rank = rank_,
                .num_parts = size_,
                .out = x,
                .num_elements = data.num_elements(),
                .dtype = data.dtype(),
                .op = op});
    return;
  }
  const std::vector<std::int64_t> offsets =
      share_offsets(data.num_elements(), ceil_div(limits.share, width), size_);
  std::byte* const own = x + offsets[static_cast<std::size_t>(rank_)] * width;
  reduce_parts(via, x, offsets, own, data.dtype(), op);
  via.gather(own, x, scaled(offsets, width));
}

void Collectives::all_gather_v(const Tensor& in, const Tensor& out, Counts counts) {
  constexpr const char* kOp = "all_gather_v";
  Transport& via = transport_for(in);
  check_rows(kOp, in, out, via.device());
  check_counts(kOp, counts, size_);
  const auto me = static_cast<std::size_t>(rank_);
  check_num_rows(kOp, "input", in, counts[me]);
  check_num_rows(kOp, "output", out, total(counts));
  const std::vector<std::int64_t> offsets = offsets_of(counts, row_bytes(in));
  std::byte* const own = bytes_of(out) + offsets[me];
  if (bytes_of(in) != own) check_disjoint(kOp, in, out);

  Header header = header_of(Op::kAllGather, in, out.dim(0), row_bytes(in));
  header.detail = digest(counts);
  Call call(*this, header, in.num_bytes());
  via.gather(bytes_of(in), bytes_of(out), offsets);
  call.count_gather(in.num_bytes(), out.num_bytes());
}

void Collectives::reduce_scatter_v(const Tensor& in, const Tensor& out, Counts counts) {
  constexpr const char* kOp = "reduce_scatter_v";
  Transport& via = transport_for(in);
  check_rows(kOp, in, out, via.device());
  check_reducible(kOp, in);
  check_counts(kOp, counts, size_);
  const auto me = static_cast<std::size_t>(rank_);
  check_num_rows(kOp, "input", in, total(counts));
  check_num_rows(kOp, "output", out, counts[me]);
  check_disjoint(kOp, in, out);

  Header header = header_of(Op::kReduceScatter, in, in.dim(0), row_bytes(in));
  header.detail = digest(counts);
  Call call(*this, header, in.num_bytes());
  const std::vector<std::int64_t> offsets = offsets_of(counts, row_bytes(in) / size_of(in.dtype()));
  if (!via.try_reduce_scatter(bytes_of(in), bytes_of(out), offsets, in.dtype())) {
    reduce_parts(via, bytes_of(in), offsets, bytes_of(out), in.dtype(), ReduceOp::kSum);
  }
  call.count_scatter(out.num_bytes(), in.num_bytes());
}

void Collectives::all_to_all_v(const Tensor& in, Counts send_counts, const Tensor& out,
                               Counts receive_counts) {
  constexpr const char* kOp = "all_to_all_v";
  Transport& via = transport_for(in);
  check_rows(kOp, in, out, via.device());
  check_counts(kOp, send_counts, size_);
  check_counts(kOp, receive_counts, size_);
  check_num_rows(kOp, "input", in, total(send_counts));
  check_num_rows(kOp, "output", out, total(receive_counts));
  const auto me = static_cast<std::size_t>(rank_);
  DSV_CHECK(send_counts[me] == receive_counts[me],
            "[comm] {} expects equal counts to and from the own rank, got {} and {}", kOp,
            send_counts[me], receive_counts[me]);
  check_disjoint(kOp, in, out);

  // Row numbers differ between ranks: they are compared pair by pair.
  Call call(*this, header_of(Op::kAllToAll, in, -1, row_bytes(in)), in.num_bytes());
  if (checked_) agree_on_counts(send_counts, receive_counts);
  const std::vector<std::int64_t> from = offsets_of(send_counts, row_bytes(in));
  const std::vector<std::int64_t> to = offsets_of(receive_counts, row_bytes(in));
  std::vector<Bytes> send, receive;
  for (std::size_t p = 0; p < static_cast<std::size_t>(size_); ++p) {
    send.push_back({bytes_of(in) + from[p], from[p + 1] - from[p]});
    receive.push_back({bytes_of(out) + to[p], to[p + 1] - to[p]});
  }
  via.exchange(send, receive);
  call.count(in.num_bytes() - send[me].size, out.num_bytes() - receive[me].size);
}

std::vector<std::string> Collectives::all_gather_bytes(const std::string& mine) {
  const auto size = static_cast<std::int64_t>(mine.size());
  Call call(*this, {.op = Op::kAllGatherBytes}, size);
  std::vector<std::string> all = gather_messages(mine);
  std::int64_t total_size = 0;
  for (const std::string& s : all) total_size += static_cast<std::int64_t>(s.size());
  call.count_gather(size, total_size);
  return all;
}

std::vector<std::string> Collectives::gather_messages(const std::string& mine) {
  const auto n = static_cast<std::size_t>(size_);
  const auto me = static_cast<std::size_t>(rank_);
  std::vector<Frame> frames(n);
  frames[me].size = mine.size();
  std::copy_n(mine.begin(), std::min(mine.size(), kInlineBytes), frames[me].text.begin());
  const std::vector<std::int64_t> ones(n, 1);
  gather_in_place(reinterpret_cast<std::byte*>(frames.data()), offsets_of(ones, sizeof(Frame)));

  std::vector<std::int64_t> sizes;
  for (const Frame& f : frames) sizes.push_back(narrow<std::int64_t>(f.size));
  const std::vector<std::int64_t> offsets = offsets_of(sizes, 1);
  std::vector<std::string> out(n);
  if (*std::max_element(sizes.begin(), sizes.end()) <= static_cast<std::int64_t>(kInlineBytes)) {
    for (std::size_t p = 0; p < n; ++p) out[p].assign(frames[p].text.data(), frames[p].size);
    return out;
  }
  std::string all(static_cast<std::size_t>(offsets[n]), '\0');
  std::copy(mine.begin(), mine.end(), all.begin() + offsets[me]);
  gather_in_place(reinterpret_cast<std::byte*>(all.data()), offsets);
  for (std::size_t p = 0; p < n; ++p) {
    out[p] = all.substr(static_cast<std::size_t>(offsets[p]), static_cast<std::size_t>(sizes[p]));
  }
  return out;
}

}  // namespace dsv::comm
