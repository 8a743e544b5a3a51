#include <cmath>
#include <limits>
#include <vector>

#include "reference.h"
#include "tables/entries.h"

namespace dsv::kernels::reference {
namespace {

constexpr double kNegInf = -std::numeric_limits<double>::infinity();

double dot(const View& a, std::int64_t a_row, const View& b, std::int64_t b_row, std::int64_t D) {
  double sum = 0;
  for (std::int64_t d = 0; d < D; ++d) sum += a(a_row, d) * b(b_row, d);
  return sum;
}

// One head of one sample: (B, S, H, D) -> (S, D).
View head(const Tensor& x, std::int64_t b, std::int64_t h) {
  return View(x.select(2, h).select(0, b));
}

// The keys that group g attends to in head h of sample b.
std::vector<std::int64_t> selected_keys(const Tensor& bits, const Tensor& block_start,
                                        std::int64_t num_keys, std::int64_t b, std::int64_t h,
                                        std::int64_t g) {
  const std::int64_t num_blocks = block_start ? block_start.dim(0) - 1 : num_keys;
  const std::int64_t row = (b * bits.dim(1) + h) * bits.dim(2) + g;
  std::vector<std::int64_t> keys;
  for (std::int64_t n = 0; n < num_blocks; ++n) {
    if ((bits.u32()[row * bits.dim(3) + n / 32] >> (n % 32) & 1u) == 0) continue;
    const std::int64_t begin = block_start ? block_start.i32()[n] : n;
    const std::int64_t end = block_start ? block_start.i32()[n + 1] : n + 1;
    for (std::int64_t j = begin; j < end; ++j) keys.push_back(j);
  }
  return keys;
}

// fn(b, h, first query, end of queries, keys) for every group of every head.
template <typename Args, typename Fn>
void for_each_group(const Args& args, const Fn& fn) {
  const std::int64_t B = args.q.dim(0), H = args.q.dim(2);
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t h = 0; h < H; ++h) {
      for (std::int64_t g = 0; g + 1 < args.group_start.dim(0); ++g) {
        const std::int32_t* const start = args.group_start.i32() + g;
        fn(b, h, std::int64_t{start[0]}, std::int64_t{start[1]},
           selected_keys(args.bits, args.block_start, args.k.dim(1), b, h, g));
      }
    }
  }
}

// The head as doubles, to add to.
struct Sums {
  std::int64_t D;
  std::vector<double> at;
  Sums(std::int64_t rows, std::int64_t D) : D(D), at(static_cast<std::size_t>(rows * D), 0) {}
  double& operator()(std::int64_t row, std::int64_t d) {
    return at[static_cast<std::size_t>(row * D + d)];
  }
  void store(const View& to) {
    const std::int64_t rows = D == 0 ? 0 : static_cast<std::int64_t>(at.size()) / D;
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t d = 0; d < D; ++d) to(row, d) = (*this)(row, d);
    }
  }
};

}  // namespace

void sparse_attention_forward(const SparseAttentionForward& args, const Stream&) {
  const std::int64_t D = args.q.dim(3);
  const View lse(args.lse);
  for_each_group(args, [&](std::int64_t b, std::int64_t h, std::int64_t first, std::int64_t end,
                           const std::vector<std::int64_t>& keys) {
    const View q = head(args.q, b, h), k = head(args.k, b, h), v = head(args.v, b, h);
    const View o = head(args.o, b, h);
    std::vector<double> p(keys.size());
    for (std::int64_t i = first; i < end; ++i) {
      double max = kNegInf, sum = 0;
      for (std::size_t n = 0; n < keys.size(); ++n) {
        p[n] = args.scale * dot(q, i, k, keys[n], D);
        max = std::fmax(max, p[n]);
      }
      for (double& s : p) sum += s = s == kNegInf ? 0 : std::exp(s - max);
      for (std::int64_t d = 0; d < D; ++d) {
        double out = 0;
        for (std::size_t n = 0; n < keys.size(); ++n) out += p[n] * v(keys[n], d);
        o(i, d) = sum > 0 ? out / sum : 0;
      }
      lse(b, h, i) = sum > 0 ? max + std::log(sum) : kNegInf;
    }
  });
}

void sparse_attention_backward(const SparseAttentionBackward& args, const Stream&) {
  const std::int64_t B = args.q.dim(0), Sq = args.q.dim(1), H = args.q.dim(2), D = args.q.dim(3);
  const std::int64_t Skv = args.k.dim(1);
  const View lse(args.lse), delta(args.delta);
  std::vector<Sums> dq(static_cast<std::size_t>(B * H), Sums(Sq, D));
  std::vector<Sums> dk(static_cast<std::size_t>(B * H), Sums(Skv, D)), dv = dk;
  for_each_group(args, [&](std::int64_t b, std::int64_t h, std::int64_t first, std::int64_t end,
                           const std::vector<std::int64_t>& keys) {
    const View q = head(args.q, b, h), k = head(args.k, b, h), v = head(args.v, b, h);
    const View o = head(args.o, b, h), d_o = head(args.d_o, b, h);
    const auto at = static_cast<std::size_t>(b * H + h);
    for (std::int64_t i = first; i < end; ++i) {
      delta(b, h, i) = dot(o, i, d_o, i, D);
      if (lse(b, h, i) == kNegInf) continue;
      for (const std::int64_t j : keys) {
        const double p = std::exp(args.scale * dot(q, i, k, j, D) - lse(b, h, i));
        const double ds = p * (dot(d_o, i, v, j, D) - delta(b, h, i));
        for (std::int64_t d = 0; d < D; ++d) {
          dq[at](i, d) += args.scale * ds * k(j, d);
          dk[at](j, d) += args.scale * ds * q(i, d);
          dv[at](j, d) += p * d_o(i, d);
        }
      }
    }
  });
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t h = 0; h < H; ++h) {
      const auto at = static_cast<std::size_t>(b * H + h);
      dq[at].store(head(args.dq, b, h));
      dk[at].store(head(args.dk, b, h));
      dv[at].store(head(args.dv, b, h));
    }
  }
}

}  // namespace dsv::kernels::reference
