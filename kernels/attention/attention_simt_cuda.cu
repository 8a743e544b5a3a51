// Attention in f32 for parity with the CPU: plain multiply-adds, exp to the last bits, no tensor
// cores. Tiles of 32 queries and 32 keys meet in shared memory; a block has one kind of tile and
// walks over all of the other. A row's result depends on that row and the order of the tiles alone.
#include "attention/attention_cuda.h"
#include "attention/attention_views.cuh"

namespace dsv::kernels::cuda {
namespace {

// 16 x 16 threads. Thread (y, x) has rows y and y + 16 of the block's own tile; of the other tile's
// rows it has x and x + 16, of columns every 16th from x on. A row's 16 threads are half a warp.
constexpr int kSide = 16, kTile = 32, kThreads = kSide * kSide;
constexpr int kScoreRow = kTile + 1;  // a row of scores in shared memory

struct SimtArguments {
  HeadsView<const float> q, k, v, d_o;
  HeadsView<float> o, dq, dk, dv;
  const float* key_bias;  // null: none
  float *lse, *delta;
  std::int64_t bias_stride;
  int Sq, Skv, H, D;
  float scale;
};

// kWidth columns and one more, so that rows begin in different banks.
template <int kWidth>
constexpr int tile_floats() {
  return kTile * (kWidth + 1);
}
template <int kWidth>
constexpr int shared_floats(int num_tiles, int num_scores) {
  return num_tiles * tile_floats<kWidth>() + num_scores * kTile * kScoreRow;
}

__device__ inline int thread_x() { return static_cast<int>(threadIdx.x) % kSide; }
__device__ inline int thread_y() { return static_cast<int>(threadIdx.x) / kSide; }

// kTile rows of one head; zeros in place of rows and columns that are not there.
template <int kWidth>
__device__ inline void load_tile(const HeadsView<const float>& from, const HeadTile& tile,
                                 int first, int num_rows, int D, float* to) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kWidth; i += kThreads) {
    const int r = i / kWidth, c = i % kWidth;
    const bool there = first + r < num_rows && c < D;
    to[r * (kWidth + 1) + c] = there ? from.row_of(tile.b, tile.h, first + r)[c] : 0.0f;
  }
}

// out[a][b] = <row y + 16 a of `own`, row x + 16 b of `other`>.
template <int kWidth>
__device__ inline void dot_rows(const float* own, const float* other, int D, float (&out)[2][2]) {
  constexpr int kRow = kWidth + 1;
  const float *p = own + thread_y() * kRow, *q = other + thread_x() * kRow;
  out[0][0] = out[0][1] = out[1][0] = out[1][1] = 0;
#pragma unroll 4
  for (int c = 0; c < D; ++c) {
    const float p0 = p[c], p1 = p[kSide * kRow + c], q0 = q[c], q1 = q[kSide * kRow + c];
    out[0][0] = fmaf(p0, q0, out[0][0]);
    out[0][1] = fmaf(p0, q1, out[0][1]);
    out[1][0] = fmaf(p1, q0, out[1][0]);
    out[1][1] = fmaf(p1, q1, out[1][1]);
  }
}

// This thread's part of a tile of scores. A row is written and read by the same half of a warp, so
// that the warp's own order suffices.
__device__ inline void share_scores(const float (&values)[2][2], float* scores) {
  __syncwarp();
#pragma unroll
  for (int a = 0; a < 2; ++a) {
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      scores[(thread_y() + a * kSide) * kScoreRow + thread_x() + b * kSide] = values[a][b];
    }
  }
  __syncwarp();
}

// sum = keep * sum + scores * rows. The tile is summed by itself, which keeps long sums accurate.
template <int kWidth>
__device__ inline void add_rows(const float* scores, const float* rows, const float (&keep)[2],
                                float (&sum)[2][kWidth / kSide]) {
  constexpr int kColumns = kWidth / kSide;
  float part[2][kColumns] = {};
#pragma unroll 2
  for (int j = 0; j < kTile; ++j) {
    const float s0 = scores[thread_y() * kScoreRow + j];
    const float s1 = scores[(thread_y() + kSide) * kScoreRow + j];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const float x = rows[j * (kWidth + 1) + thread_x() + c * kSide];
      part[0][c] = fmaf(s0, x, part[0][c]);
      part[1][c] = fmaf(s1, x, part[1][c]);
    }
  }
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    sum[0][c] = fmaf(sum[0][c], keep[0], part[0][c]);
    sum[1][c] = fmaf(sum[1][c], keep[1], part[1][c]);
  }
}

// fn(float&, column) for this thread's columns of row y + 16 a, if there is such a row.
template <int kWidth, typename Fn>
__device__ inline void for_own_columns(const HeadsView<float>& to, const HeadTile& tile, int a,
                                       int num_rows, int D, const Fn& fn) {
  const int row = tile.first + thread_y() + a * kSide;
  if (row >= num_rows) return;
  float* const at = to.row_of(tile.b, tile.h, row);
#pragma unroll
  for (int c = 0; c < kWidth / kSide; ++c) {
    const int column = thread_x() + c * kSide;
    if (column < D) fn(at[column], c);
  }
}

// The bias of a key; -inf for one that only fills up a tile.
__device__ inline float bias_of(const SimtArguments& args, const HeadTile& tile, int key) {
  if (key >= args.Skv) return -INFINITY;
  return args.key_bias != nullptr ? args.key_bias[tile.b * args.bias_stride + key] : 0.0f;
}

// Over the 16 threads of a row, in an order that is the same for all.
template <typename Fn>
__device__ inline float reduce_row(float value, const Fn& fn) {
#pragma unroll
  for (int offset = kSide / 2; offset > 0; offset /= 2) {
    value = fn(value, __shfl_xor_sync(0xffffffffu, value, offset));
  }
  return value;
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads, 1)
    attention_simt_forward_kernel(const SimtArguments args) {
  extern __shared__ float shared[];
  float* const q = shared;
  float* const k = q + tile_floats<kWidth>();
  float* const v = k + tile_floats<kWidth>();
  float* const scores = v + tile_floats<kWidth>();
  const HeadTile tile = head_tile(args.Sq, kTile, args.H);
  load_tile<kWidth>(args.q, tile, tile.first, args.Sq, args.D, q);
  float o[2][kWidth / kSide] = {};
  float max[2] = {kLowest, kLowest}, sum[2] = {};
  for (int first = 0; first < args.Skv; first += kTile) {
    __syncthreads();  // everyone is done with the tile before
    load_tile<kWidth>(args.k, tile, first, args.Skv, args.D, k);
    load_tile<kWidth>(args.v, tile, first, args.Skv, args.D, v);
    __syncthreads();
    float p[2][2], keep[2];
    dot_rows<kWidth>(q, k, args.D, p);
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const float bias = bias_of(args, tile, first + thread_x() + b * kSide);
      p[0][b] = fmaf(p[0][b], args.scale, bias);
      p[1][b] = fmaf(p[1][b], args.scale, bias);
    }
#pragma unroll
    for (int a = 0; a < 2; ++a) {
      const float top = fmaxf(max[a], reduce_row(fmaxf(p[a][0], p[a][1]),
                                                 [](float x, float y) { return fmaxf(x, y); }));
      p[a][0] = expf(p[a][0] - top);
      p[a][1] = expf(p[a][1] - top);
      keep[a] = expf(max[a] - top);
      sum[a] = fmaf(sum[a], keep[a],
                    reduce_row(p[a][0] + p[a][1], [](float x, float y) { return x + y; }));
      max[a] = top;
    }
    share_scores(p, scores);
    add_rows<kWidth>(scores, v, keep, o);
  }
  float* const lse = args.lse + tile.rows_before(args.H, args.Sq);
#pragma unroll
  for (int a = 0; a < 2; ++a) {
    const bool none = sum[a] == 0;  // every score was -inf, or there are no keys; not: NaN
    for_own_columns<kWidth>(args.o, tile, a, args.Sq, args.D,
                            [&](float& to, int c) { to = none ? 0.0f : o[a][c] / sum[a]; });
    const int row = tile.first + thread_y() + a * kSide;
    if (thread_x() == 0 && row < args.Sq) lse[row] = none ? -INFINITY : max[a] + logf(sum[a]);
  }
}

// exp(score - lse); rows without any key, and queries that only fill up a tile, weigh nothing.
__device__ inline float weight(float dot, float scale, float bias, float lse) {
  return lse == -INFINITY ? 0.0f : expf(fmaf(dot, scale, bias) - lse);
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads, 1)
    attention_simt_dq_kernel(const SimtArguments args) {
  extern __shared__ float shared[];
  float* const q = shared;
  float* const d_o = q + tile_floats<kWidth>();
  float* const k = d_o + tile_floats<kWidth>();
  float* const v = k + tile_floats<kWidth>();
  float* const scores = v + tile_floats<kWidth>();
  const HeadTile tile = head_tile(args.Sq, kTile, args.H);
  load_tile<kWidth>(args.q, tile, tile.first, args.Sq, args.D, q);
  load_tile<kWidth>(args.d_o, tile, tile.first, args.Sq, args.D, d_o);
  float lse[2], delta[2];
#pragma unroll
  for (int a = 0; a < 2; ++a) {
    const int row = tile.first + thread_y() + a * kSide;
    const std::int64_t at = tile.rows_before(args.H, args.Sq) + row;
    lse[a] = row < args.Sq ? args.lse[at] : -INFINITY;
    delta[a] = row < args.Sq ? args.delta[at] : 0.0f;
  }
  float dq[2][kWidth / kSide] = {};
  for (int first = 0; first < args.Skv; first += kTile) {
    __syncthreads();  // everyone is done with the tile before
    load_tile<kWidth>(args.k, tile, first, args.Skv, args.D, k);
    load_tile<kWidth>(args.v, tile, first, args.Skv, args.D, v);
    __syncthreads();
    float s[2][2], ds[2][2];
    dot_rows<kWidth>(q, k, args.D, s);
    dot_rows<kWidth>(d_o, v, args.D, ds);
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const float bias = bias_of(args, tile, first + thread_x() + b * kSide);
#pragma unroll
      for (int a = 0; a < 2; ++a) {
        ds[a][b] = weight(s[a][b], args.scale, bias, lse[a]) * (ds[a][b] - delta[a]);
      }
    }
    share_scores(ds, scores);
    add_rows<kWidth>(scores, k, {1.0f, 1.0f}, dq);
  }
#pragma unroll
  for (int a = 0; a < 2; ++a) {
    for_own_columns<kWidth>(args.dq, tile, a, args.Sq, args.D,
                            [&](float& to, int c) { to = args.scale * dq[a][c]; });
  }
}

// Scores are transposed here, keys by queries.
template <int kWidth>
__global__ void __launch_bounds__(kThreads, 1)
    attention_simt_dkdv_kernel(const SimtArguments args) {
  extern __shared__ float shared[];
  float* const k = shared;
  float* const v = k + tile_floats<kWidth>();
  float* const q = v + tile_floats<kWidth>();
  float* const d_o = q + tile_floats<kWidth>();
  float* const weights = d_o + tile_floats<kWidth>();
  float* const scores = weights + kTile * kScoreRow;
  const HeadTile tile = head_tile(args.Skv, kTile, args.H);
  load_tile<kWidth>(args.k, tile, tile.first, args.Skv, args.D, k);
  load_tile<kWidth>(args.v, tile, tile.first, args.Skv, args.D, v);
  const float bias[2] = {bias_of(args, tile, tile.first + thread_y()),
                         bias_of(args, tile, tile.first + thread_y() + kSide)};
  float dk[2][kWidth / kSide] = {}, dv[2][kWidth / kSide] = {};
  for (int first = 0; first < args.Sq; first += kTile) {
    __syncthreads();  // everyone is done with the tile before
    load_tile<kWidth>(args.q, tile, first, args.Sq, args.D, q);
    load_tile<kWidth>(args.d_o, tile, first, args.Sq, args.D, d_o);
    __syncthreads();
    float p[2][2], ds[2][2];
    dot_rows<kWidth>(k, q, args.D, p);
    dot_rows<kWidth>(v, d_o, args.D, ds);
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const int row = first + thread_x() + b * kSide;
      const std::int64_t at = tile.rows_before(args.H, args.Sq) + row;
      const float lse = row < args.Sq ? args.lse[at] : -INFINITY;
      const float delta = row < args.Sq ? args.delta[at] : 0.0f;
#pragma unroll
      for (int a = 0; a < 2; ++a) {
        p[a][b] = weight(p[a][b], args.scale, bias[a], lse);
        ds[a][b] = p[a][b] * (ds[a][b] - delta);
      }
    }
    share_scores(p, weights);
    share_scores(ds, scores);
    add_rows<kWidth>(weights, d_o, {1.0f, 1.0f}, dv);
    add_rows<kWidth>(scores, q, {1.0f, 1.0f}, dk);
  }
#pragma unroll
  for (int a = 0; a < 2; ++a) {
    for_own_columns<kWidth>(args.dk, tile, a, args.Skv, args.D,
                            [&](float& to, int c) { to = args.scale * dk[a][c]; });
    for_own_columns<kWidth>(args.dv, tile, a, args.Skv, args.D,
                            [&](float& to, int c) { to = dv[a][c]; });
  }
}

template <typename Kernel>
void launch(Kernel* kernel, std::int64_t B, std::int64_t num_rows, int num_floats,
            const SimtArguments& arguments, const Stream& stream) {
  if (B * arguments.H * num_rows == 0) return;
  const int bytes = num_floats * static_cast<int>(sizeof(float));
  allow_shared_bytes(kernel, bytes);
  kernel<<<num_head_tiles(B, arguments.H, num_rows, kTile), kThreads, bytes, native(stream)>>>(
      arguments);
  DSV_CUDA_LAUNCHED();
}

}  // namespace

void attention_forward_simt(const AttentionForward& args, const Stream& stream) {
  const std::int64_t B = args.q.dim(0), Sq = args.q.dim(1);
  const SimtArguments arguments{
      .q = heads_view<const float>(args.q),
      .k = heads_view<const float>(args.k),
      .v = heads_view<const float>(args.v),
      .o = heads_view<float>(args.o),
      .key_bias = args.key_bias ? args.key_bias.f32() : nullptr,
      .lse = args.lse.f32(),
      .bias_stride = args.key_bias ? args.key_bias.stride(0) : 0,
      .Sq = static_cast<int>(Sq),
      .Skv = static_cast<int>(args.k.dim(1)),
      .H = static_cast<int>(args.q.dim(2)),
      .D = static_cast<int>(args.q.dim(3)),
      .scale = args.scale};
  with_padded_dim<64, 128, 256>(args.q.dim(3), [&](auto width) {
    launch(attention_simt_forward_kernel<width()>, B, Sq, shared_floats<width()>(3, 1), arguments,
           stream);
  });
}

void attention_backward_simt(const AttentionBackward& args, const Stream& stream) {
  const std::int64_t B = args.q.dim(0), Sq = args.q.dim(1), Skv = args.k.dim(1);
  launch_delta<float>(args.o, args.d_o, args.delta, stream);
  const SimtArguments arguments{
      .q = heads_view<const float>(args.q),
      .k = heads_view<const float>(args.k),
      .v = heads_view<const float>(args.v),
      .d_o = heads_view<const float>(args.d_o),
      .dq = heads_view<float>(args.dq),
      .dk = heads_view<float>(args.dk),
      .dv = heads_view<float>(args.dv),
      .key_bias = args.key_bias ? args.key_bias.f32() : nullptr,
      .lse = args.lse.f32(),
      .delta = args.delta.f32(),
      .bias_stride = args.key_bias ? args.key_bias.stride(0) : 0,
      .Sq = static_cast<int>(Sq),
      .Skv = static_cast<int>(Skv),
      .H = static_cast<int>(args.q.dim(2)),
      .D = static_cast<int>(args.q.dim(3)),
      .scale = args.scale};
  with_padded_dim<64, 128, 256>(args.q.dim(3), [&](auto width) {
    launch(attention_simt_dq_kernel<width()>, B, Sq, shared_floats<width()>(4, 1), arguments,
           stream);
    launch(attention_simt_dkdv_kernel<width()>, B, Skv, shared_floats<width()>(4, 2), arguments,
           stream);
  });
}

}  // namespace dsv::kernels::cuda
