// Which instruction sets the SIMD files of this folder tree are compiled for. Included before
// Highway in every file that dispatches at run time: AVX-512, AVX2, and the portable baseline.
#pragma once

// Highway's bits, which are stable across its versions: 0–7 are AVX-512 variants beyond the first
// (AVX3_DL, ZEN4, SPR, AVX10), 11 SSE4, 12 SSSE3. Each further target costs compile time in every
// file and none of our kernels gains from them.
#define HWY_DISABLED_TARGETS (0xFFLL | (3LL << 11))
