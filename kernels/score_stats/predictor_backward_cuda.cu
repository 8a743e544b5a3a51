// Scores are never formed: the gradient of a row is a small matrix, summed over all keys, times the
// row, and that of a key a small matrix, summed over the sampled rows, times the key (README.md).
// In bf16 one pass over the keys does both of a key's products on tensor cores.
#include "score_stats/predictor_factors.cuh"
#include "score_stats/predictor_loss.h"
#include "tables/entries.h"

namespace dsv::kernels::cuda {
namespace {

__global__ void weigh_rows_kernel(const double* stats, std::int64_t num_rows, double num_keys,
                                  bool center, double scale, double lr_scale, double grad_scale,
                                  float* loss, float* coefficients) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= num_rows) return;
  const PredictorLoss row = predictor_loss(stats + i * kNumScoreColumns, num_keys, center);
  const double factor = grad_scale * lr_scale;
  loss[i] = static_cast<float>(row.loss);
  coefficients[3 * i] = static_cast<float>(factor * row.a * scale);
  coefficients[3 * i + 1] = static_cast<float>(factor * row.b * lr_scale);
  coefficients[3 * i + 2] = static_cast<float>(factor * row.c);
}

// --- The pass over the keys in bf16
// ---------------------------------------------------------------

constexpr int kPassThreads = 128, kPassKeys = 64, kPassTiles = 16;  // tiles of a block

struct KeyPassArguments {
  TwoViews<Bf16> k;
  const float* of_rows;  // (B, H, width, r): the matrix that a key's gradient comes from
  float* partials;       // (B, H, num_chunks, width, r)
  float* dk;             // (B, Skv, H, r)
  int H, Skv, num_chunks;

  __device__ __host__ int width() const { return k.D + k.r + 1; }
  // Columns of a tile: k, k_lr, and 16 that begin with a 1.
  __device__ __host__ int columns() const { return k.columns() + 16; }
  // Which w a column is, -1 for one that only fills up.
  __device__ int w_of(int column) const {
    if (column < k.depth) return column < k.D ? column : -1;
    const int c = column - k.depth;
    if (c < k.lr_depth) return c < k.r ? k.D + c : -1;
    return c == k.lr_depth ? k.D + k.r : -1;
  }
};

struct PassTile {  // for for_key_tiles
  using T = Bf16;
  static constexpr int kStages = 2;
};

constexpr int kMatrixRow = kFactorColumns + 8;  // elements

inline int pass_shared_bytes(int columns) {
  return 2 * (2 * kPassKeys * tile_stride<Bf16>(columns) + 2 * columns * kMatrixRow);
}

// kM: blocks of 16 columns whose products with k_lr a warp keeps in registers.
template <int kM>
__global__ void __launch_bounds__(kPassThreads, 3)
    predictor_keys_kernel(const KeyPassArguments args) {
  extern __shared__ __align__(16) unsigned char shared[];
  const int columns = args.columns(), stride = tile_stride<Bf16>(columns);
  auto* const tiles = reinterpret_cast<Bf16*>(shared);
  Bf16* const high = tiles + 2 * kPassKeys * stride;  // of_rows is the sum of two bf16 matrices
  Bf16* const low = high + columns * kMatrixRow;

  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int block = static_cast<int>(blockIdx.x), head = block / args.num_chunks;
  const int b = head / args.H, h = head % args.H;
  const int first_key = block % args.num_chunks * kPassTiles * kPassKeys;
  const int num_keys = min(kPassTiles * kPassKeys, args.Skv - first_key);
  const int first_c = static_cast<int>(blockIdx.y) * kFactorColumns, r = args.k.r;

  for (int e = thread; e < columns * kFactorColumns; e += kPassThreads) {
    const int column = e / kFactorColumns, c = e % kFactorColumns, w = args.w_of(column);
    const bool there = w >= 0 && first_c + c < r;
    const float x =
        there ? args.of_rows[(static_cast<std::int64_t>(head) * args.width() + w) * r + first_c + c]
              : 0.0f;
    const Bf16 rounded = __float2bfloat16_rn(x);
    high[column * kMatrixRow + c] = rounded;
    low[column * kMatrixRow + c] = __float2bfloat16_rn(x - __bfloat162float(rounded));
  }
  for (int e = thread; e < 2 * kPassKeys * 16; e += kPassThreads) {
    tiles[e / 16 * stride + args.k.columns() + e % 16] =
        __float2bfloat16_rn(e % 16 == 0 ? 1.0f : 0.0f);
  }

  const int row_bytes = 2 * stride;
  const std::uint32_t tile_at = shared_address(tiles);
  // Keys are the rows of dk, the depth of the products.
  const std::uint32_t key_rows = (warp * 16 + lane % 16) * row_bytes + lane / 16 * 16;
  const std::uint32_t key_depth = (lane / 16 * 8 + lane % 8) * row_bytes + lane / 8 % 2 * 16;
  const std::uint32_t low_rank =
      lane % 16 * row_bytes + lane / 16 * 16 + 2 * (args.k.depth + first_c);
  const std::uint32_t matrix_lane = 2 * (lane % 16 * kMatrixRow + lane / 16 * 8);
  const std::uint32_t high_at = shared_address(high) + matrix_lane;
  const std::uint32_t low_at = shared_address(low) + matrix_lane;
  float products[kM][2][4] = {};

  const auto load = [&](int tile, Bf16* to) {
    const int first = tile * kPassKeys;
    load_rows<kPassThreads>(
        args.k, b, h, kPassKeys, stride,
        [&](int j) { return first + j < num_keys ? first_key + first + j : -1; }, to);
  };
  const auto body = [&](int tile, const Bf16*) {
    const std::uint32_t at = tile_at + tile % 2 * kPassKeys * row_bytes;
    float dk[2][4] = {};
#pragma unroll 2
    for (int column = 0; column < columns; column += 16) {
      std::uint32_t x[4], hi[4], lo[4];
      load_matrices(at + key_rows + 2 * column, x);
      load_matrices_transposed(high_at + 2 * column * kMatrixRow, hi);
      load_matrices_transposed(low_at + 2 * column * kMatrixRow, lo);
      mma(x, lo[0], lo[1], dk[0]);
      mma(x, lo[2], lo[3], dk[1]);
      mma(x, hi[0], hi[1], dk[0]);
      mma(x, hi[2], hi[3], dk[1]);
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int key = tile * kPassKeys + warp * 16 + e / 2 * 8 + lane / 4;
        const int c = first_c + n * 8 + lane % 4 * 2 + e % 2;
        if (key >= num_keys || c >= r) continue;
        const std::int64_t row = static_cast<std::int64_t>(b) * args.Skv + first_key + key;
        args.dk[(row * args.H + h) * r + c] = dk[n][e];
      }
    }
#pragma unroll
    for (int k = 0; k < kPassKeys; k += 16) {
      std::uint32_t p[4];
      load_matrices_transposed(at + k * row_bytes + low_rank, p);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const int column = (m * 4 + warp) * 16;
        if (column >= columns) break;
        std::uint32_t x[4];
        load_matrices_transposed(at + k * row_bytes + key_depth + 2 * column, x);
        mma(x, p[0], p[1], products[m][0]);
        mma(x, p[2], p[3], products[m][1]);
      }
    }
  };
  for_key_tiles<PassTile>((num_keys + kPassKeys - 1) / kPassKeys, tiles, kPassKeys * stride, load,
                          body);
  float* const to = args.partials + static_cast<std::int64_t>(block) * args.width() * r;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int column = (m * 4 + warp) * 16 + e % 4 / 2 * 8 + lane / 4;
      const int c = first_c + e / 4 * 8 + lane % 4 * 2 + e % 2;
      const int w = column < columns ? args.w_of(column) : -1;
      if (w >= 0 && c < r) to[w * r + c] = products[m][e / 4][e % 4];
    }
  }
}

// --- Launching
// ------------------------------------------------------------------------------------

// One head's chunks of rows or keys, by shape alone.
struct FactorChunks {
  std::int64_t rows, count;
  FactorChunks(std::int64_t num_rows, std::int64_t chunk_rows)
      : rows(chunk_rows), count(std::max<std::int64_t>(1, ceil_div(num_rows, chunk_rows))) {}
};

template <typename T>
class Backward {
 public:
  Backward(const PredictorBackward& args, const Stream& stream)
      : args_(args),
        stream_(stream),
        H_(args.q.dim(2)),
        heads_(args.q.dim(0) * H_),
        R_(args.rows.dim(0)),
        Skv_(args.k.dim(1)),
        D_(args.q.dim(3)),
        r_(args.q_lr.dim(3)),
        matrix_((D_ + r_ + 1) * r_),
        row_chunks_(R_, 128),
        key_chunks_(Skv_, kPassTiles * kPassKeys) {}

  void run() const {
    if (heads_ * r_ == 0) return;
    const std::int64_t num_partials =
        heads_ * matrix_ * std::max(row_chunks_.count, key_chunks_.count);
    float* const partials =
        scratch<float>(stream_, num_partials + 2 * heads_ * matrix_ + 3 * heads_ * R_);
    float* const of_rows = partials + num_partials;
    float* const of_keys = of_rows + heads_ * matrix_;
    float* const coefficients = of_keys + heads_ * matrix_;
    if (R_ > 0) {
      weigh_rows_kernel<<<num_blocks(heads_ * R_, 256), 256, 0, native(stream_)>>>(
          args_.stats.f64(), heads_ * R_, static_cast<double>(args_.num_keys), args_.center,
          args_.scale, args_.lr_scale, args_.grad_scale, args_.loss.f32(), coefficients);
      DSV_CUDA_LAUNCHED();
    }
    const Factors<T> rows = factors(args_.q, args_.q_lr, args_.rows.i32(), coefficients, R_);
    const Factors<T> keys = factors(args_.k, args_.k_lr, nullptr, nullptr, Skv_);
    sum_products(rows, row_chunks_, partials);
    add_partials(partials, row_chunks_.count, of_rows);
    if constexpr (sizeof(T) == 2) {
      pass_over_keys(of_rows, partials);
    } else {
      sum_products(keys, key_chunks_, partials);
      apply(keys, of_rows, args_.dk_lr);
    }
    add_partials(partials, key_chunks_.count, of_keys);
    apply(rows, of_keys, args_.dq_lr);
  }

 private:
  Factors<T> factors(const Tensor& main, const Tensor& low_rank, const std::int32_t* rows,
                     const float* coefficients, std::int64_t num_rows) const {
    return {.main = heads_view<const T>(main),
            .low_rank = heads_view<const T>(low_rank),
            .rows = rows,
            .coefficients = coefficients,
            .D = static_cast<int>(D_),
            .r = static_cast<int>(r_),
            .H = static_cast<int>(H_),
            .num_rows = static_cast<int>(num_rows)};
  }
  unsigned column_tiles() const { return num_blocks(r_, kFactorColumns); }

  void sum_products(const Factors<T>& from, const FactorChunks& chunks, float* partials) const {
    const dim3 grid(static_cast<unsigned>(narrow<std::int32_t>(heads_ * chunks.count)),
                    num_blocks(from.width(), kOuterWidth), column_tiles());
    outer_sum_kernel<<<grid, kFactorThreads, 0, native(stream_)>>>(
        from, static_cast<int>(chunks.count), static_cast<int>(chunks.rows), partials);
    DSV_CUDA_LAUNCHED();
  }
  void add_partials(const float* partials, std::int64_t num_chunks, float* sums) const {
    add_partials_kernel<<<num_blocks(heads_ * matrix_, 256), 256, 0, native(stream_)>>>(
        partials, static_cast<int>(num_chunks), matrix_, heads_ * matrix_, sums);
    DSV_CUDA_LAUNCHED();
  }
  void apply(const Factors<T>& from, const float* products, const Tensor& out) const {
    const std::int64_t tiles = ceil_div(from.num_rows, kApplyRows);
    if (tiles == 0) return;
    const dim3 grid(static_cast<unsigned>(narrow<std::int32_t>(heads_ * tiles)), column_tiles());
    apply_kernel<<<grid, kFactorThreads, 0, native(stream_)>>>(from, static_cast<int>(tiles),
                                                               products, out.f32());
    DSV_CUDA_LAUNCHED();
  }
  void pass_over_keys(const float* of_rows, float* partials) const {
    const KeyPassArguments arguments{.k = {args_.k, args_.k_lr},
                                     .of_rows = of_rows,
                                     .partials = partials,
                                     .dk = args_.dk_lr.f32(),
                                     .H = static_cast<int>(H_),
                                     .Skv = static_cast<int>(Skv_),
                                     .num_chunks = static_cast<int>(key_chunks_.count)};
    const int columns = arguments.columns(), bytes = pass_shared_bytes(columns);
    const auto kernel =
        columns <= 192 ? predictor_keys_kernel<3> : predictor_keys_kernel<9>;  // 64 kM columns
    allow_shared_bytes(kernel, bytes);
    const dim3 grid(static_cast<unsigned>(narrow<std::int32_t>(heads_ * key_chunks_.count)),
                    column_tiles());
    kernel<<<grid, kPassThreads, bytes, native(stream_)>>>(arguments);
    DSV_CUDA_LAUNCHED();
  }

  const PredictorBackward& args_;
  const Stream& stream_;
  std::int64_t H_, heads_, R_, Skv_, D_, r_, matrix_;
  FactorChunks row_chunks_, key_chunks_;
};

}  // namespace

void predictor_backward(const PredictorBackward& args, const Stream& stream) {
  require_f32_or_bf16("predictor_backward", {&args.q, &args.k, &args.q_lr, &args.k_lr});
  require_f32("predictor_backward", {&args.loss, &args.dq_lr, &args.dk_lr});
  const std::int64_t D = args.q.dim(3), r = args.q_lr.dim(3);
  DSV_CHECK(D <= 256 && r <= 256, "[score_stats] expected dims ≤ 256, got {} and {}", D, r);
  DSV_CHECK(args.k.dim(1) < std::int64_t{1} << 30, "[score_stats] expected fewer than 2^30 keys");
  with_dtype("predictor_backward", args.q.dtype(),
             [&](auto t) { Backward<decltype(t)>(args, stream).run(); });
}

}  // namespace dsv::kernels::cuda
