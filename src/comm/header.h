// The 32 bytes by which ranks make sure that they are in the same call.
#pragma once

#include <string>

#include "dsv/tensor/tensor.h"

namespace dsv::comm {

enum class Op : std::uint8_t {
  kBarrier,
  kBroadcast,
  kAllReduce,
  kAllGather,
  kReduceScatter,
  kAllToAll,
  kAllGatherBytes,
  kSplit,
};

// Where the tensors of a call lie; kNone for calls without tensors.
enum class Place : std::uint8_t { kNone, kHost, kDevice };

// What a rank says about a call before it begins. Equal on all ranks, or the call is refused.
struct Header {
  std::int64_t seq = 0;
  Op op = Op::kBarrier;
  std::uint8_t reduce = 0;  // ReduceOp
  std::uint8_t dtype = 0;
  Place place = Place::kNone;
  std::uint32_t detail = 0;  // root of a broadcast, CRC-32C of the counts
  std::int64_t num_rows = 0;
  std::int64_t row_bytes = 0;
  bool operator==(const Header&) const = default;
};
static_assert(sizeof(Header) == 32);

const char* op_name(Op op);
// "all_reduce (call 17, sum, F32, 8 rows of 4 bytes)"
std::string describe(const Header& header);
// All but seq, reduce and detail.
Header header_of(Op op, const Tensor& t, std::int64_t num_rows, std::int64_t row_bytes);

}  // namespace dsv::comm
