// A thread has one pack of columns of a chunk of one sample's rows: their gate stays in registers,
// and so do the sums of dy * h, which become dgate.
#include "cuda/row_columns.cuh"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

// Most threads of a block of a ColumnGrid.
constexpr int kThreads = 256;

template <typename X, typename H>
struct Forward {
  const X* x;
  const H* h;
  SampleTable gate;
  X* y;  // may be x
  RowChunks chunks;
  ColumnGrid grid;
};

// gate[0..kPack) of this thread's columns, ones where there is no gate.
template <int kPack>
__device__ void load_gate(const float* row, std::int64_t column, float (&gate)[kPack]) {
#pragma unroll
  for (int i = 0; i < kPack; ++i) gate[i] = 1;
  if (row != nullptr) load_parameter_pack<kPack>(row + column, gate);
}

template <typename X, typename H, int kPack>
__global__ void __launch_bounds__(kThreads) forward(const Forward<X, H> p) {
  const std::int64_t column = p.grid.template column<kPack>(), C = p.grid.C;
  if (column >= C) return;
  const auto rows = p.chunks[p.grid.chunk()];
  float gate[kPack];
  load_gate<kPack>(p.gate.row(rows.sample), column, gate);
  for_row_runs(rows.begin, rows.end, [&](std::int64_t row, auto n) {
    float x[n][kPack], h[n][kPack];
#pragma unroll
    for (int r = 0; r < n; ++r) {
      load_pack<kPack>(p.x + (row + r) * C + column, x[r]);
      load_pack<kPack>(p.h + (row + r) * C + column, h[r]);
    }
#pragma unroll
    for (int r = 0; r < n; ++r) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) x[r][i] = fmaf(gate[i], h[r][i], x[r][i]);
      store_pack<kPack>(p.y + (row + r) * C + column, x[r]);
    }
  });
}

template <typename DY, typename H>
struct Backward {
  const H* h;
  SampleTable gate;
  const DY* dy;
  H* dh;
  float* partials;  // (chunks, C): sum dy * h; null: not wanted, and h is not read
  RowChunks chunks;
  ColumnGrid grid;
};

template <typename DY, typename H, int kPack, bool kSum>
__global__ void __launch_bounds__(kThreads) backward(const Backward<DY, H> p) {
  const std::int64_t column = p.grid.template column<kPack>(), C = p.grid.C;
  if (column >= C) return;
  const std::int64_t chunk = p.grid.chunk();
  const auto rows = p.chunks[chunk];
  float gate[kPack], sum[kPack] = {};
  load_gate<kPack>(p.gate.row(rows.sample), column, gate);
  for_row_runs(rows.begin, rows.end, [&](std::int64_t row, auto n) {
    float dy[n][kPack];
    [[maybe_unused]] float h[n][kPack];
#pragma unroll
    for (int r = 0; r < n; ++r) {
      load_pack<kPack>(p.dy + (row + r) * C + column, dy[r]);
      if constexpr (kSum) load_pack<kPack>(p.h + (row + r) * C + column, h[r]);
    }
#pragma unroll
    for (int r = 0; r < n; ++r) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        if constexpr (kSum) sum[i] = fmaf(dy[r][i], h[r][i], sum[i]);
        dy[r][i] *= gate[i];
      }
      store_pack<kPack>(p.dh + (row + r) * C + column, dy[r]);
    }
  });
  if constexpr (kSum) store_pack<kPack>(p.partials + chunk * C + column, sum);
}

// Blocks along y have a sample each.
__global__ void gate_gradient(const float* partials, std::int64_t chunks_per_sample, std::int64_t C,
                              SampleTable dgate, std::int64_t B) {
  const std::int64_t c = std::int64_t{blockIdx.x} * kSumColumns + threadIdx.x;
  for (std::int64_t b = blockIdx.y; b < B; b += gridDim.y) {
    double sum[1];
    column_totals(partials + b * chunks_per_sample * C, chunks_per_sample, C, c, sum);
    if (threadIdx.y == 0 && c < C) dgate.row(b)[c] = static_cast<float>(sum[0]);
  }
}

}  // namespace

void gated_residual_forward(const GatedResidualForward& args, const Stream& stream) {
  require_f32("gated_residual", {&args.gate});
  DSV_CHECK(args.y.dtype() == args.x.dtype(), "[gated_residual] x is {}, y is {}", args.x.dtype(),
            args.y.dtype());
  const std::int64_t B = args.x.dim(0), S = args.x.dim(1), C = args.x.dim(2);
  if (B * S * C == 0) return;
  with_dtypes("gated_residual", args.x.dtype(), args.h.dtype(), [&](auto x_type, auto h_type) {
    using X = decltype(x_type);
    using H = decltype(h_type);
    constexpr int kPack = kPackOf<X, H>;
    Forward<X, H> p{.x = data<X>(args.x),
                    .h = data<H>(args.h),
                    .gate = SampleTable(args.gate),
                    .y = data<X>(args.y),
                    .chunks = independent_rows(B, S),
                    .grid = ColumnGrid(C, kPack)};
    const auto launch = [&](auto kernel) {
      kernel<<<p.grid.num_blocks(p.chunks.total), p.grid.threads, 0, native(stream)>>>(p);
    };
    if (is_packable(p.x, C, kPack) && is_packable(p.h, C, kPack) && is_packable(p.y, C, kPack)) {
      launch(forward<X, H, kPack>);
    } else {
      p.grid = ColumnGrid(C, 1);
      launch(forward<X, H, 1>);
    }
    DSV_CUDA_LAUNCHED();
  });
}

void gated_residual_backward(const GatedResidualBackward& args, const Stream& stream) {
  require_f32("gated_residual", {&args.gate, &args.dgate});
  const std::int64_t B = args.dy.dim(0), S = args.dy.dim(1), C = args.dy.dim(2);
  const bool sums = args.dgate.defined();
  DSV_CHECK(!sums || args.h.dtype() == args.dh.dtype(), "[gated_residual] h is {}, dh is {}",
            args.h.dtype(), args.dh.dtype());
  if (B * C == 0) return;
  const RowChunks chunks = summed_rows(B, S);
  float* const partials = sums ? scratch<float>(stream, chunks.total * C) : nullptr;
  const auto run = [&](auto dy_type, auto h_type) {
    using DY = decltype(dy_type);
    using H = decltype(h_type);
    constexpr int kPack = kPackOf<DY, H>;
    Backward<DY, H> p{.h = sums ? data<H>(args.h) : nullptr,
                      .gate = SampleTable(args.gate),
                      .dy = data<DY>(args.dy),
                      .dh = data<H>(args.dh),
                      .partials = partials,
                      .chunks = chunks,
                      .grid = ColumnGrid(C, kPack)};
    const auto launch = [&](auto kernel) {
      kernel<<<p.grid.num_blocks(chunks.total), p.grid.threads, 0, native(stream)>>>(p);
    };
    if (is_packable(p.h, C, kPack) && is_packable(p.dy, C, kPack) && is_packable(p.dh, C, kPack)) {
      sums ? launch(backward<DY, H, kPack, true>) : launch(backward<DY, H, kPack, false>);
    } else {
      p.grid = ColumnGrid(C, 1);
      sums ? launch(backward<DY, H, 1, true>) : launch(backward<DY, H, 1, false>);
    }
    DSV_CUDA_LAUNCHED();
  };
  if (chunks.total > 0) with_dtypes("gated_residual", args.dy.dtype(), args.dh.dtype(), run);
  if (!sums) return;
  const dim3 grid(num_blocks(C, kSumColumns),
                  static_cast<unsigned>(std::min<std::int64_t>(B, 65535)));
  gate_gradient<<<grid, sum_block(), 0, native(stream)>>>(partials, chunks.per_sample, C,
                                                          SampleTable(args.dgate), B);
  DSV_CUDA_LAUNCHED();
}

}  // namespace dsv::kernels::cuda
