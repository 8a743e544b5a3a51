// Sparse attention in f32 for parity with the CPU: plain multiply-adds, exp to the last bits, no
// tensor cores. Tiles of 32 queries and 32 keys meet in shared memory. A block has queries of a
// group and walks over the keys that the group has selected, packed into whole tiles; or it has
// slots of keys and walks over the groups that have selected any of them.
#include "sparse_attention/selected_keys.cuh"
#include "sparse_attention/selecting_groups.cuh"
#include "sparse_attention/sparse_attention_cuda.h"

namespace dsv::kernels::cuda {
namespace {

// 16 x 16 threads. Thread (y, x) has rows y and y + 16 of the block's own tile; of the other tile's
// rows it has x and x + 16, of columns every 16th from x on. A row's 16 threads are half a warp.
constexpr int kSide = 16, kTile = 32, kThreads = kSide * kSide;
constexpr int kScoreRow = kTile + 1;  // a row of scores in shared memory

struct SimtArguments {
  SelectionView selection;
  HeadsView<const float> q, k, v, d_o;
  HeadsView<float> o, dq, dk, dv;
  float *lse, *delta;
  int Sq, num_slots, H, D;
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

__device__ inline int thread_x() {
  return static_cast<int>(threadIdx.x) % kSide;
}
__device__ inline int thread_y() {
  return static_cast<int>(threadIdx.x) / kSide;
}

// Rows position(0 .. kTile - 1) of one head; zeros in place of columns that are not there and of
// rows whose position is negative.
template <int kWidth, typename Position>
__device__ inline void load_tile(const HeadsView<const float>& from, const HeadTile& head, int D,
                                 const Position& position, float* to) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kWidth; i += kThreads) {
    const int r = i / kWidth, c = i % kWidth, at = position(r);
    const bool there = at >= 0 && c < D;
    to[r * (kWidth + 1) + c] = there ? from.row_of(head.b, head.h, at)[c] : 0.0f;
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

// This thread's columns of a row, times `factor`, to row `row`; nothing if that is negative.
template <int kWidth>
__device__ inline void store_row(const float (&values)[kWidth / kSide], float factor,
                                 const HeadsView<float>& to, const HeadTile& head, int row, int D) {
  if (row < 0) return;
  float* const at = to.row_of(head.b, head.h, row);
#pragma unroll
  for (int c = 0; c < kWidth / kSide; ++c) {
    const int column = thread_x() + c * kSide;
    if (column < D) at[column] = factor * values[c];
  }
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

// Row y + 16 a of a tile of queries; -1 if there is none.
__device__ inline int own_query(const GroupTile& tile, int a) {
  const int query = tile.at.first + thread_y() + a * kSide;
  return query < tile.end ? query : -1;
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads, 1)
    sparse_simt_forward_kernel(const __grid_constant__ SimtArguments args) {
  extern __shared__ float shared[];
  __shared__ SelectedKeysStorage storage;
  float* const q = shared;
  float* const k = q + tile_floats<kWidth>();
  float* const v = k + tile_floats<kWidth>();
  float* const scores = v + tile_floats<kWidth>();
  const GroupTile tile = group_tile(args.selection, kTile, args.H);
  if (tile.at.first >= tile.end) return;
  load_tile<kWidth>(
      args.q, tile.at, args.D,
      [&](int r) { return tile.at.first + r < tile.end ? tile.at.first + r : -1; }, q);
  SelectedKeys keys(args.selection, args.selection.row_of(tile.head, tile.g),
                    static_cast<int>(threadIdx.x), storage, BlockBarrier{});
  float o[2][kWidth / kSide] = {};
  float max[2] = {kLowest, kLowest}, sum[2] = {};
  while (const int num_keys = keys.template next_tile<kTile>()) {
    const auto position = [&](int r) { return r < num_keys ? keys.position(r) : -1; };
    __syncthreads();  // everyone is done with the tile before
    load_tile<kWidth>(args.k, tile.at, args.D, position, k);
    load_tile<kWidth>(args.v, tile.at, args.D, position, v);
    __syncthreads();
    float p[2][2], keep[2];
    dot_rows<kWidth>(q, k, args.D, p);
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const bool there = thread_x() + b * kSide < num_keys;
      p[0][b] = there ? p[0][b] * args.scale : -INFINITY;
      p[1][b] = there ? p[1][b] * args.scale : -INFINITY;
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
  float* const lse = args.lse + tile.at.rows_before(args.H, args.Sq);
#pragma unroll
  for (int a = 0; a < 2; ++a) {
    const bool none = sum[a] == 0;  // no keys, or every score was -inf; not: NaN
    const int row = own_query(tile, a);
#pragma unroll
    for (float& x : o[a]) x = none ? 0.0f : x / sum[a];
    store_row<kWidth>(o[a], 1, args.o, tile.at, row, args.D);
    if (thread_x() == 0 && row >= 0) lse[row] = none ? -INFINITY : max[a] + logf(sum[a]);
  }
}

// exp(score - lse); rows without any key, and queries that only fill up a tile, weigh nothing.
__device__ inline float weight(float dot, float scale, float lse) {
  return lse == -INFINITY ? 0.0f : expf(fmaf(dot, scale, -lse));
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads, 1)
    sparse_simt_dq_kernel(const __grid_constant__ SimtArguments args) {
  extern __shared__ float shared[];
  __shared__ SelectedKeysStorage storage;
  float* const q = shared;
  float* const d_o = q + tile_floats<kWidth>();
  float* const k = d_o + tile_floats<kWidth>();
  float* const v = k + tile_floats<kWidth>();
  float* const scores = v + tile_floats<kWidth>();
  const GroupTile tile = group_tile(args.selection, kTile, args.H);
  if (tile.at.first >= tile.end) return;
  const auto query = [&](int r) { return tile.at.first + r < tile.end ? tile.at.first + r : -1; };
  load_tile<kWidth>(args.q, tile.at, args.D, query, q);
  load_tile<kWidth>(args.d_o, tile.at, args.D, query, d_o);
  float lse[2], delta[2];
#pragma unroll
  for (int a = 0; a < 2; ++a) {
    const int row = own_query(tile, a);
    const std::int64_t at = tile.at.rows_before(args.H, args.Sq) + row;
    lse[a] = row >= 0 ? args.lse[at] : -INFINITY;
    delta[a] = row >= 0 ? args.delta[at] : 0.0f;
  }
  SelectedKeys keys(args.selection, args.selection.row_of(tile.head, tile.g),
                    static_cast<int>(threadIdx.x), storage, BlockBarrier{});
  float dq[2][kWidth / kSide] = {};
  while (const int num_keys = keys.template next_tile<kTile>()) {
    const auto position = [&](int r) { return r < num_keys ? keys.position(r) : -1; };
    __syncthreads();  // everyone is done with the tile before
    load_tile<kWidth>(args.k, tile.at, args.D, position, k);
    load_tile<kWidth>(args.v, tile.at, args.D, position, v);
    __syncthreads();
    float s[2][2], ds[2][2];
    dot_rows<kWidth>(q, k, args.D, s);
    dot_rows<kWidth>(d_o, v, args.D, ds);
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const bool there = thread_x() + b * kSide < num_keys;
#pragma unroll
      for (int a = 0; a < 2; ++a) {
        const float p = weight(s[a][b], args.scale, lse[a]);
        ds[a][b] = there ? p * (ds[a][b] - delta[a]) : 0.0f;
      }
    }
    share_scores(ds, scores);
    add_rows<kWidth>(scores, k, {1.0f, 1.0f}, dq);
  }
#pragma unroll
  for (int a = 0; a < 2; ++a) {
    store_row<kWidth>(dq[a], args.scale, args.dq, tile.at, own_query(tile, a), args.D);
  }
}

// Scores are transposed here, keys by queries.
template <int kWidth>
__global__ void __launch_bounds__(kThreads, 1)
    sparse_simt_dkdv_kernel(const __grid_constant__ SimtArguments args) {
  extern __shared__ float shared[];
  float* const k = shared;
  float* const v = k + tile_floats<kWidth>();
  float* const q = v + tile_floats<kWidth>();
  float* const d_o = q + tile_floats<kWidth>();
  float* const weights = d_o + tile_floats<kWidth>();
  float* const scores = weights + kTile * kScoreRow;
  const int tiles = (args.num_slots + kTile - 1) / kTile;
  const int head = static_cast<int>(blockIdx.x) / tiles;
  const int first_slot = static_cast<int>(blockIdx.x) % tiles * kTile;
  const HeadTile at{head / args.H, head % args.H, 0};
  const std::int64_t rows = at.rows_before(args.H, args.Sq);
  const auto key = [&](int r) { return key_slot(args.selection, first_slot + r).key; };
  load_tile<kWidth>(args.k, at, args.D, key, k);
  load_tile<kWidth>(args.v, at, args.D, key, v);
  int keys[2], blocks[2];
#pragma unroll
  for (int a = 0; a < 2; ++a) {
    const KeySlot slot = key_slot(args.selection, first_slot + thread_y() + a * kSide);
    keys[a] = slot.key;
    blocks[a] = slot.key < 0 ? -1 : slot.block;
  }
  SelectingGroups<kTile, kTile, 2> groups(args.selection, head, first_slot, blocks);
  float dk[2][kWidth / kSide] = {}, dv[2][kWidth / kSide] = {};
  while (groups.next()) {
    const auto query = [&](int r) { return groups.first + r < groups.end ? groups.first + r : -1; };
    __syncthreads();  // everyone is done with the tile before
    load_tile<kWidth>(args.q, at, args.D, query, q);
    load_tile<kWidth>(args.d_o, at, args.D, query, d_o);
    __syncthreads();
    float p[2][2], ds[2][2];
    dot_rows<kWidth>(k, q, args.D, p);
    dot_rows<kWidth>(v, d_o, args.D, ds);
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const int row = query(thread_x() + b * kSide);
      const float lse = row >= 0 ? args.lse[rows + row] : -INFINITY;
      const float delta = row >= 0 ? args.delta[rows + row] : 0.0f;
#pragma unroll
      for (int a = 0; a < 2; ++a) {
        p[a][b] = groups.selected[a] ? weight(p[a][b], args.scale, lse) : 0.0f;
        // Not: 0 times what an unwanted key holds.
        ds[a][b] = groups.selected[a] ? p[a][b] * (ds[a][b] - delta) : 0.0f;
      }
    }
    share_scores(p, weights);
    share_scores(ds, scores);
    add_rows<kWidth>(weights, d_o, {1.0f, 1.0f}, dv);
    add_rows<kWidth>(scores, q, {1.0f, 1.0f}, dk);
  }
#pragma unroll
  for (int a = 0; a < 2; ++a) {
    store_row<kWidth>(dk[a], args.scale, args.dk, at, keys[a], args.D);
    store_row<kWidth>(dv[a], 1, args.dv, at, keys[a], args.D);
  }
}

template <typename Kernel>
void launch(Kernel* kernel, int num_blocks, int num_floats, const SimtArguments& arguments,
            const Stream& stream) {
  if (num_blocks == 0) return;
  const int bytes = num_floats * static_cast<int>(sizeof(float));
  allow_shared_bytes(kernel, bytes);
  kernel<<<num_blocks, kThreads, bytes, native(stream)>>>(arguments);
  DSV_CUDA_LAUNCHED();
}

}  // namespace

void sparse_attention_forward_simt(const SparseAttentionForward& args, const Stream& stream) {
  const std::int64_t B = args.q.dim(0), Sq = args.q.dim(1), H = args.q.dim(2), D = args.q.dim(3);
  if (B * H * Sq == 0) return;
  const SimtArguments arguments{.selection = selection_view(args),
                                .q = heads_view<const float>(args.q),
                                .k = heads_view<const float>(args.k),
                                .v = heads_view<const float>(args.v),
                                .o = heads_view<float>(args.o),
                                .lse = args.lse.f32(),
                                .Sq = static_cast<int>(Sq),
                                .H = static_cast<int>(H),
                                .D = static_cast<int>(D),
                                .scale = args.scale};
  with_padded_dim<64, 128, 256>(D, [&](auto width) {
    launch(sparse_simt_forward_kernel<width()>, num_group_tiles(B, H, arguments.selection.G, kTile),
           shared_floats<width()>(3, 1), arguments, stream);
  });
}

void sparse_attention_backward_simt(const SparseAttentionBackward& args, const Stream& stream) {
  const std::int64_t B = args.q.dim(0), Sq = args.q.dim(1), H = args.q.dim(2), D = args.q.dim(3);
  launch_delta<float>(args.o, args.d_o, args.delta, stream);
  const SelectionView selection = selection_view(args);
  const SimtArguments arguments{.selection = selection,
                                .q = heads_view<const float>(args.q),
                                .k = heads_view<const float>(args.k),
                                .v = heads_view<const float>(args.v),
                                .d_o = heads_view<const float>(args.d_o),
                                .dq = heads_view<float>(args.dq),
                                .dk = heads_view<float>(args.dk),
                                .dv = heads_view<float>(args.dv),
                                .lse = args.lse.f32(),
                                .delta = args.delta.f32(),
                                .Sq = static_cast<int>(Sq),
                                .num_slots = narrow<std::int32_t>(num_key_slots(selection)),
                                .H = static_cast<int>(H),
                                .D = static_cast<int>(D),
                                .scale = args.scale};
  with_padded_dim<64, 128, 256>(D, [&](auto width) {
    launch(sparse_simt_dq_kernel<width()>, Sq == 0 ? 0 : num_group_tiles(B, H, selection.G, kTile),
           shared_floats<width()>(4, 1), arguments, stream);
    launch(sparse_simt_dkdv_kernel<width()>, num_head_tiles(B, H, arguments.num_slots, kTile),
           shared_floats<width()>(4, 2), arguments, stream);
  });
}

}  // namespace dsv::kernels::cuda
