// The two elementwise steps of an ADMM round, each in one pass over memory, four numbers to a thread.
//
// Complex arrays come as arrays of their parts: two numbers (`lanes`) share an entry of the mask.
#include "scalar.cuh"

template <class R>
struct alignas(4 * sizeof(R) > 16 ? 16 : 4 * sizeof(R)) Four {
  R at[4];
};

template <class R>
__device__ __forceinline__ bool aligned(const R* p) {
  return (unsigned long long)p % alignof(Four<R>) == 0;
}

// t = b + (mask ? 0 : t)
template <class R>
__device__ void update(const R* b, R* t, const bool* mask, long long size, long long lanes) {
  const long long start = 4 * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
  const int shift = lanes == 2;
  if (start + 4 <= size && aligned(b) && aligned(t)) {
    const Four<R> x = *reinterpret_cast<const Four<R>*>(b + start);
    Four<R> y = *reinterpret_cast<const Four<R>*>(t + start);
#pragma unroll
    for (int i = 0; i < 4; i++) y.at[i] = x.at[i] + (mask[(start + i) >> shift] ? (R)0 : y.at[i]);
    *reinterpret_cast<Four<R>*>(t + start) = y;
  } else {
    for (long long i = start; i < size && i < start + 4; i++) t[i] = b[i] + (mask[i >> shift] ? (R)0 : t[i]);
  }
}

// out = c + rho * (mask ? t : -t)
template <class R>
__device__ void rhs(const R* c, const R* t, const bool* mask, R rho, R* out, long long size, long long lanes) {
  const long long start = 4 * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
  const int shift = lanes == 2;
  if (start + 4 <= size && aligned(c) && aligned(t) && aligned(out)) {
    const Four<R> x = *reinterpret_cast<const Four<R>*>(c + start), y = *reinterpret_cast<const Four<R>*>(t + start);
    Four<R> z;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const R change = rho * y.at[i];
      z.at[i] = x.at[i] + (mask[(start + i) >> shift] ? change : -change);
    }
    *reinterpret_cast<Four<R>*>(out + start) = z;
  } else {
    for (long long i = start; i < size && i < start + 4; i++) {
      const R change = rho * t[i];
      out[i] = c[i] + (mask[i >> shift] ? change : -change);
    }
  }
}

#define ENTRIES(R, S)                                                                                               \
  KERNEL(256) update_##S(const R* b, R* t, const bool* mask, long long size, long long lanes) {                     \
    update(b, t, mask, size, lanes);                                                                                \
  }                                                                                                                 \
  KERNEL(256) rhs_##S(const R* c, const R* t, const bool* mask, double rho, R* out, long long size,                 \
                      long long lanes) {                                                                            \
    rhs(c, t, mask, (R)rho, out, size, lanes);                                                                      \
  }
FOR_REAL(ENTRIES)
