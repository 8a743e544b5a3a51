#include "header.h"

namespace dsv::comm {

const char* op_name(Op op) {
  switch (op) {
    case Op::kBarrier: return "barrier";
    case Op::kBroadcast: return "broadcast";
    case Op::kAllReduce: return "all_reduce";
    case Op::kAllGather: return "all_gather_v";
    case Op::kReduceScatter: return "reduce_scatter_v";
    case Op::kAllToAll: return "all_to_all_v";
    case Op::kAllGatherBytes: return "all_gather_bytes";
    case Op::kSplit: return "split";
  }
  return "unknown";
}

std::string describe(const Header& h) {
  std::string out = format("{} (call {}", op_name(h.op), h.seq);
  if (h.op == Op::kAllReduce || h.op == Op::kReduceScatter) {
    constexpr const char* kNames[] = {"sum", "min", "max"};
    out += format(", {}", kNames[h.reduce % 3]);
  }
  if (h.place != Place::kNone) out += format(", {}", static_cast<DType>(h.dtype));
  if (h.row_bytes > 0) out += format(", {} rows of {} bytes", h.num_rows, h.row_bytes);
  if (h.op == Op::kBroadcast) out += format(", root {}", h.detail);
  if (h.op == Op::kAllGather || h.op == Op::kReduceScatter) {
    out += format(", counts {:08x}", h.detail);
  }
  if (h.place == Place::kDevice) out += ", on the device";
  return out + ")";
}

Header header_of(Op op, const Tensor& t, std::int64_t num_rows, std::int64_t row_bytes) {
  return {.op = op,
          .dtype = static_cast<std::uint8_t>(t.dtype()),
          .place = t.device().kind == DeviceKind::kCpu ? Place::kHost : Place::kDevice,
          .num_rows = num_rows,
          .row_bytes = row_bytes};
}

}  // namespace dsv::comm
