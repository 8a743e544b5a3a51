#include "dsv/data/contact_sheet.h"

#include <algorithm>

#include "dsv/data/host_tensor.h"

namespace dsv::data {

Tensor contact_sheet(const std::vector<Tensor>& clips, std::int64_t columns, std::int64_t gap) {
  DSV_CHECK(!clips.empty() && columns > 0 && gap >= 0,
            "[png] a contact sheet needs clips and columns");
  std::int64_t height = gap, cell_width = 0;
  for (const Tensor& clip : clips) {
    DSV_CHECK(clip.num_dims() == 4 && clip.dim(0) == 3 && clip.stride(3) == 1,
              "[png] expected a clip [3, F, H, W], got {}", clip.shape());
    height += clip.dim(2) + gap;
    cell_width = std::max(cell_width, clip.dim(3));
  }
  const std::int64_t width = columns * (cell_width + gap) + gap;
  const Tensor sheet = host_tensor({3, height, width});
  std::fill_n(sheet.f32(), sheet.num_elements(), 1.0f);
  std::int64_t top = gap;
  for (const Tensor& clip : clips) {
    const std::int64_t shown = std::min(columns, clip.dim(1));
    for (std::int64_t column = 0; column < shown; ++column) {
      const std::int64_t f = shown == 1 ? 0 : column * (clip.dim(1) - 1) / (shown - 1);
      for (std::int64_t rgb = 0; rgb < 3; ++rgb) {
        for (std::int64_t y = 0; y < clip.dim(2); ++y) {
          std::copy_n(
              clip.f32() + rgb * clip.stride(0) + f * clip.stride(1) + y * clip.stride(2),
              clip.dim(3),
              sheet.f32() + (rgb * height + top + y) * width + gap + column * (cell_width + gap));
        }
      }
    }
    top += clip.dim(2) + gap;
  }
  return sheet;
}

}  // namespace dsv::data
