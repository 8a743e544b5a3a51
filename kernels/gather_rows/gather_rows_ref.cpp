#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

void gather_rows(const GatherRows& args, const Stream&) {
  const View x(args.x), y(args.y);
  const std::int32_t* index = args.index.i32();
  for (std::int64_t b = 0; b < args.y.dim(0); ++b) {
    for (std::int64_t i = 0; i < args.y.dim(1); ++i) {
      for (std::int64_t c = 0; c < args.y.dim(2); ++c) y(b, i, c) = x(b, index[i], c);
    }
  }
}

}  // namespace dsv::kernels::reference
