#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

void segment_mean(const SegmentMean& args, const Stream&) {
  const View x(args.x), y(args.y);
  const std::int32_t* start = args.start.i32();
  for (std::int64_t b = 0; b < args.x.dim(0); ++b) {
    for (std::int64_t n = 0; n + 1 < args.start.dim(0); ++n) {
      for (std::int64_t c = 0; c < args.x.dim(2); ++c) {
        double sum = 0;
        for (std::int64_t i = start[n]; i < start[n + 1]; ++i) sum += x(b, i, c);
        for (std::int64_t i = start[n]; i < start[n + 1]; ++i) {
          y(b, i, c) = sum / static_cast<double>(start[n + 1] - start[n]);
        }
      }
    }
  }
}

}  // namespace dsv::kernels::reference
