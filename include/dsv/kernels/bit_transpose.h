// The inverse lists of a selection: which groups want a block, from which blocks a group wants.
#pragma once

#include "dsv/tensor/tensor.h"

namespace dsv::kernels {

// For each row matrix r: bit g of out[r, n] (bit g % 32 of word g / 32) = bit n of in[r, g]. Bits past
// the last group are 0. No aliasing.
struct BitTranspose {
  Tensor in;   // in   (R, G, ceil(N / 32)) u32, contiguous
  Tensor out;  // out  (R, N, ceil(G / 32)) u32, contiguous
};

}  // namespace dsv::kernels
