// The predictor's loss of one row and its slope, from the row's statistics: one function for all
// fillings, on the host and on the device. README.md derives it.
#pragma once

#include <cmath>

#include "dsv/kernels/score_stats.h"

namespace dsv::kernels {

// d loss / d t_j = a s_j + b t_j + c for every key j.
struct PredictorLoss {
  double loss = 0, a = 0, b = 0, c = 0;
};

constexpr PredictorLoss predictor_loss(const double* stats, double num_keys, bool center) {
  const double factor = 0.95 + 0.1 / num_keys;
  const double mean_s = center ? stats[kSumS] / num_keys : 0;
  const double mean_t = center ? stats[kSumT] / num_keys : 0;
  const double ss = stats[kSumSS] - mean_s * stats[kSumS];
  const double tt = stats[kSumTT] - mean_t * stats[kSumT];
  const double st = stats[kSumST] - mean_s * stats[kSumT];
  const double least = 1e-20 * num_keys;
  if (!(ss > least && tt > least)) return {.loss = factor};
  const double lengths = std::sqrt(ss) * std::sqrt(tt), cosine = st / lengths;
  const double a = -factor / lengths, b = factor * cosine / tt;
  return {.loss = (1 - cosine) * factor, .a = a, .b = b, .c = -(a * mean_s + b * mean_t)};
}

}  // namespace dsv::kernels
