#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

void rope(const Rope& args, const Stream&) {
  const View x(args.x), y(args.y), cos(args.cos), sin(args.sin);
  const std::int64_t B = args.x.dim(0), S = args.x.dim(1), H = args.x.dim(2), D = args.x.dim(3);
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t s = 0; s < S; ++s) {
      for (std::int64_t h = 0; h < H; ++h) {
        for (std::int64_t i = 0; i < D / 2; ++i) {
          const double even = x(b, s, h, 2 * i), odd = x(b, s, h, 2 * i + 1);
          const double c = cos(s, i), angle_sin = sin(s, i);
          const double sn = args.inverse ? -angle_sin : angle_sin;
          y(b, s, h, 2 * i) = even * c - odd * sn;
          y(b, s, h, 2 * i + 1) = even * sn + odd * c;
        }
      }
    }
  }
}

}  // namespace dsv::kernels::reference
