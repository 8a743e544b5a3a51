// A kernel that needs more registers than it is allowed: it must not compile with the project's flags.
__global__ void __maxnreg__(24) spills(const float* x, float* y) {
  float v[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) v[i] = x[i * 32 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 64; ++i) y[((i * 37) % 64) * 32 + threadIdx.x] = v[i] * v[(i * 7) % 64];
}
