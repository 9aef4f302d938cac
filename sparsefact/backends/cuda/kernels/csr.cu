// Products with a CSR matrix, and the product of two dense matrices at the entries of one.
#include "block.cuh"
#include "pack.cuh"

// y = S x for matrices that lie row by row: a thread per row and 16 bytes of columns.
template <class T>
__device__ void multiply(const T* data, const int* indices, const int* indptr, const T* x, T* y, long long rows,
                         long long batch) {
  constexpr int V = LANES<T>;
  const long long across = (batch + V - 1) / V, e = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (e >= rows * across) return;
  const long long row = e / across, column = e % across * V;
  const bool whole = batch % V == 0 && aligned(x) && aligned(y);
  Pack<T, V> sum;
#pragma unroll
  for (int l = 0; l < V; l++) sum.at[l] = from_real<T>(0);
  const int last = indptr[row + 1];
  for (int k = indptr[row]; k < last; k++) {
    const T value = data[k];
    const Pack<T, V> in = load_some<T>(x + indices[k] * batch + column, batch - column, whole);
#pragma unroll
    for (int l = 0; l < V; l++) sum.at[l] = sum.at[l] + value * in.at[l];
  }
  store_some(y + row * batch + column, sum, batch - column, whole);
}

// The same for few columns: a warp per row and column, whose lanes share the entries.
template <class T>
__device__ void multiply_few(const T* data, const int* indices, const int* indptr, const T* x, T* y, long long rows,
                             long long batch) {
  const long long item = (long long)blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
  if (item >= rows * batch) return;
  const long long row = item / batch, column = item % batch;
  const int lane = threadIdx.x & 31, last = indptr[row + 1];
  T sum = from_real<T>(0);
#pragma unroll 2
  for (int k = indptr[row] + lane; k < last; k += 32) sum = sum + data[k] * x[indices[k] * batch + column];
  sum = warp_sum(sum);
  if (lane == 0) y[item] = sum;
}

// out[e] = sum_k x[i, k] y[j, k] for the e-th entry (i, j) of a support: a warp per entry.
template <class T>
__device__ void sampled(const int* indptr, const int* indices, const T* x, const T* y, T* out, long long entries,
                        long long rows, long long depth) {
  const long long e = (long long)blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
  if (e >= entries) return;
  long long low = 0, high = rows;  // indptr[low] <= e < indptr[high]
  while (high - low > 1) {
    const long long middle = (low + high) / 2;
    if (indptr[middle] <= e)
      low = middle;
    else
      high = middle;
  }
  const int lane = threadIdx.x & 31;
  const T *left = x + low * depth, *right = y + indices[e] * depth;
  T sum = from_real<T>(0);
#pragma unroll 2
  for (long long k = lane; k < depth; k += 32) sum = sum + left[k] * right[k];
  sum = warp_sum(sum);
  if (lane == 0) out[e] = sum;
}

#define ENTRIES(T, S)                                                                                               \
  KERNEL(256) multiply_##S(const T* data, const int* indices, const int* indptr, const T* x, T* y, long long rows,  \
                           long long batch) {                                                                       \
    multiply(data, indices, indptr, x, y, rows, batch);                                                             \
  }                                                                                                                 \
  KERNEL(256) multiply_few_##S(const T* data, const int* indices, const int* indptr, const T* x, T* y,              \
                               long long rows, long long batch) {                                                   \
    multiply_few(data, indices, indptr, x, y, rows, batch);                                                         \
  }                                                                                                                 \
  KERNEL(256) sampled_##S(const int* indptr, const int* indices, const T* x, const T* y, T* out,                    \
                          long long entries, long long rows, long long depth) {                                     \
    sampled(indptr, indices, x, y, out, entries, rows, depth);                                                      \
  }
FOR_ALL(ENTRIES)
