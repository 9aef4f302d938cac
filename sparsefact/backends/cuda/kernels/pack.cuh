// Several numbers that are read or written together: 16 bytes where memory is aligned.
#ifndef SPARSEFACT_PACK_CUH
#define SPARSEFACT_PACK_CUH

#include "scalar.cuh"

template <class T, int N>
struct alignas(N * sizeof(T) > 16 ? 16 : N * sizeof(T)) Pack {
  T at[N];
};

// numbers in 16 bytes
template <class T>
constexpr int LANES = 16 / sizeof(T);

template <class T>
__device__ __forceinline__ bool aligned(const T* p) {
  return (unsigned long long)p % 16 == 0;
}

template <class T, int N>
__device__ __forceinline__ Pack<T, N> load(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <class T, int N>
__device__ __forceinline__ void store(T* p, Pack<T, N> x) {
  *reinterpret_cast<Pack<T, N>*>(p) = x;
}

// 16 bytes of numbers of which `left` exist; the others are zero. `whole` says that p is aligned.
template <class T>
__device__ __forceinline__ Pack<T, LANES<T>> load_some(const T* p, long long left, bool whole) {
  constexpr int V = LANES<T>;
  if (whole && left >= V) return load<T, V>(p);
  Pack<T, V> x;
#pragma unroll
  for (int l = 0; l < V; l++) x.at[l] = l < left ? p[l] : from_real<T>(0);
  return x;
}
template <class T, int V>
__device__ __forceinline__ void store_some(T* p, Pack<T, V> x, long long left, bool whole) {
  if (whole && left >= V) {
    store(p, x);
  } else {
#pragma unroll
    for (int l = 0; l < V; l++)
      if (l < left) p[l] = x.at[l];
  }
}

#endif
