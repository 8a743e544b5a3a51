#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {

namespace {

// Calls move(video element, token element) for every element.
template <typename Move>
void for_each_pair(const Patchify& args, const Move& move) {
  const View video(args.video), tokens(args.tokens), token_order(args.token_order);
  const auto [pt, ph, pw] = args.patch;
  const std::int64_t B = args.video.dim(0), C = args.video.dim(1);
  const std::int64_t height = args.video.dim(3) / ph, width = args.video.dim(4) / pw;
  const std::int64_t S = args.tokens.dim(1);
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t s = 0; s < S; ++s) {
      const auto raster = token_order ? static_cast<std::int64_t>(token_order(s)) : s;
      const std::int64_t t = raster / (height * width);
      const std::int64_t h = raster / width % height, w = raster % width;
      for (std::int64_t c = 0; c < C; ++c) {
        for (std::int64_t i = 0; i < pt; ++i) {
          for (std::int64_t j = 0; j < ph; ++j) {
            for (std::int64_t k = 0; k < pw; ++k) {
              const std::int64_t feature = args.channels_last ? ((i * ph + j) * pw + k) * C + c
                                                              : ((c * pt + i) * ph + j) * pw + k;
              move(video(b, c, t * pt + i, h * ph + j, w * pw + k), tokens(b, s, feature));
            }
          }
        }
      }
    }
  }
}

}  // namespace

void patchify(const Patchify& args, const Stream&) {
  for_each_pair(args, [](const Element& video, const Element& token) { token = video; });
}

void unpatchify(const Patchify& args, const Stream&) {
  for_each_pair(args, [](const Element& video, const Element& token) { video = token; });
}

}  // namespace dsv::kernels::reference
