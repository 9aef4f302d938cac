// Least squares with a different support per column: many small Cholesky factorizations, a thread block each.
//
// For column j with support S (s entries): gather G[S, S], factor it as L L^H by panels, solve with L, then with L^H. An
// unknown whose pivot is at most s eps times its diagonal entry depends on the earlier ones: its column of L and its
// value are zero. Neighbouring columns with one support share the factorization. Matrices come transposed: a row is a
// column of the problem.
#include "block.cuh"

#define PANEL 16
// columns of one support that are solved together; a run does not cross a multiple of it
#define TOGETHER 8

// The side of a tile of numbers that a thread holds in registers.
template <class T>
constexpr int TILE = sizeof(T) > 8 ? 2 : 4;

// A tile of the trailing update a[i][c] -= sum_t a[i][t] conj(a[c][t]) over a panel.
template <class T>
__device__ __forceinline__ void update_tile(T* a, int ld, int s, int row, int col, int first, int last) {
  constexpr int side = TILE<T>;
  T sums[side][side];
#pragma unroll
  for (int i = 0; i < side; i++)
#pragma unroll
    for (int c = 0; c < side; c++) sums[i][c] = from_real<T>(0);
  for (int t = first; t < last; t++) {
    T left[side], right[side];
#pragma unroll
    for (int i = 0; i < side; i++) {
      left[i] = row + i < s ? a[(long long)(row + i) * ld + t] : from_real<T>(0);
      right[i] = col + i < s ? conjugate(a[(long long)(col + i) * ld + t]) : from_real<T>(0);
    }
#pragma unroll
    for (int i = 0; i < side; i++)
#pragma unroll
      for (int c = 0; c < side; c++) sums[i][c] = sums[i][c] + left[i] * right[c];
  }
#pragma unroll
  for (int i = 0; i < side; i++)
#pragma unroll
    for (int c = 0; c < side; c++)
      if (row + i < s && col + c <= row + i) {
        T& entry = a[(long long)(row + i) * ld + col + c];
        entry = entry - sums[i][c];
      }
}

// Overwrite the lower triangle by L without its diagonal, whose reciprocals (zero for a dropped unknown) go to `inv`.
template <class T>
__device__ __forceinline__ void cholesky(T* a, int ld, int s, RealOf<T>* inv, const RealOf<T>* least) {
  typedef RealOf<T> R;
  for (int first = 0; first < s; first += PANEL) {
    const int last = first + PANEL < s ? first + PANEL : s;
    for (int j = first; j < last; j++) {
      const R pivot = real_part(a[(long long)j * ld + j]);
      const R root = pivot <= least[j] ? (R)0 : 1 / sqrt(pivot);
      __syncthreads();
      for (int i = j + threadIdx.x; i < s; i += blockDim.x) {
        if (i == j)
          inv[j] = root;
        else
          a[(long long)i * ld + j] = a[(long long)i * ld + j] * root;
      }
      __syncthreads();
      const int width = last - j - 1;
      for (int e = threadIdx.x; e < (s - j - 1) * width; e += blockDim.x) {
        const int i = j + 1 + e / width, c = j + 1 + e % width;
        if (c > i) continue;
        T& entry = a[(long long)i * ld + c];
        entry = entry - a[(long long)i * ld + j] * conjugate(a[(long long)c * ld + j]);
      }
      __syncthreads();
    }
    constexpr int side = TILE<T>;
    const int tiles = (s - last + side - 1) / side;
    for (int e = threadIdx.x; e < tiles * tiles; e += blockDim.x)
      if (e % tiles <= e / tiles)
        update_tile(a, ld, s, last + side * (e / tiles), last + side * (e % tiles), first, last);
    __syncthreads();
  }
}

// Overwrite `run` right-hand sides, TOGETHER apart, by the solutions.
template <class T>
__device__ __forceinline__ void substitute(const T* a, int ld, int s, const RealOf<T>* inv, T* b, int run) {
  for (int i = 0; i < s; i++) {
    for (int e = threadIdx.x; e < (s - i - 1) * TOGETHER; e += blockDim.x) {
      const int k = i + 1 + e / TOGETHER, c = e % TOGETHER;
      if (c < run) b[k * TOGETHER + c] = b[k * TOGETHER + c] - a[(long long)k * ld + i] * (b[i * TOGETHER + c] * inv[i]);
    }
    __syncthreads();
  }
  for (int e = threadIdx.x; e < s * TOGETHER; e += blockDim.x)
    if (e % TOGETHER < run) b[e] = b[e] * inv[e / TOGETHER];
  __syncthreads();
  for (int i = s - 1; i >= 0; i--) {
    for (int e = threadIdx.x; e < i * TOGETHER; e += blockDim.x) {
      const int k = e / TOGETHER, c = e % TOGETHER;
      if (c < run)
        b[k * TOGETHER + c] = b[k * TOGETHER + c] - conjugate(a[(long long)i * ld + k]) * (b[i * TOGETHER + c] * inv[i]);
    }
    __syncthreads();
  }
  for (int e = threadIdx.x; e < s * TOGETHER; e += blockDim.x)
    if (e % TOGETHER < run) b[e] = b[e] * inv[e / TOGETHER];
  __syncthreads();
}

// Solve the columns whose supports have more than `low` and at most `high` entries; others are for another launch.
// A block takes every gridDim.x-th of the columns that begin a run. `space` is null where shared memory holds it all.
template <class T>
__device__ void solve(const T* g, const T* rhs, const bool* mask, const long long* counts, const bool* same, T* solution,
                      unsigned char* space, long long bytes, long long p, long long n, int low, int high) {
  typedef RealOf<T> R;
  DYNAMIC_SHARED(memory);
  __shared__ unsigned scratch[32];
  unsigned char* own = space ? space + blockIdx.x * bytes : memory;
  const int room = high | 1;
  T *a = reinterpret_cast<T*>(own), *b = a + (long long)high * room;
  R *inv = reinterpret_cast<R*>(b + (long long)high * TOGETHER), *least = inv + high;
  int* support = reinterpret_cast<int*>(least + high);
  for (long long j = blockIdx.x; j < n; j += gridDim.x) {
    const int s = (int)counts[j], ld = s | 1;
    if (s <= low || s > high || (same[j] && j % TOGETHER)) continue;
    int run = 1;
    while ((j + run) % TOGETHER && j + run < n && same[j + run]) run++;
    unsigned found = 0, total;
    for (long long start = 0; start < p; start += blockDim.x) {
      const long long i = start + threadIdx.x;
      const bool in = i < p && mask[j * p + i];
      const unsigned before = flags_before(in, scratch, &total);
      if (in) support[found + before] = (int)i;
      found += total;
    }
    __syncthreads();
    for (long long e = threadIdx.x; e < (long long)s * s; e += blockDim.x) {
      const int i = (int)(e / s), k = (int)(e % s);
      if (k > i) continue;
      const T entry = g[support[i] * p + support[k]];
      a[(long long)i * ld + k] = entry;
      if (i == k) least[i] = real_part(entry) * epsilon<R>() * s;
    }
    for (int e = threadIdx.x; e < s * TOGETHER; e += blockDim.x) {
      const int c = e % TOGETHER;
      if (c < run) b[e] = rhs[(j + c) * p + support[e / TOGETHER]];
    }
    __syncthreads();
    cholesky(a, ld, s, inv, least);
    substitute(a, ld, s, inv, b, run);
    for (int e = threadIdx.x; e < s * TOGETHER; e += blockDim.x) {
      const int c = e % TOGETHER;
      if (c < run) solution[(j + c) * p + support[e / TOGETHER]] = b[e];
    }
    __syncthreads();
  }
}

// counts[j]: the entries of row j of the mask; same[j]: whether it equals the row before it
KERNEL(256) supports(const bool* mask, long long p, long long* counts, bool* same) {
  __shared__ unsigned long long scratch[32];
  const bool *row = mask + blockIdx.x * p, *before = row - p;
  unsigned long long mine = 0, differ = 0, total, differences;
  for (long long i = threadIdx.x; i < p; i += blockDim.x) {
    mine += row[i];
    differ += blockIdx.x == 0 || row[i] != before[i];
  }
  block_before(mine, scratch, &total);
  block_before(differ, scratch, &differences);
  if (threadIdx.x == 0) {
    counts[blockIdx.x] = (long long)total;
    same[blockIdx.x] = differences == 0 && blockIdx.x > 0;
  }
}

#define ENTRIES(T, S)                                                                                               \
  KERNEL(256) solve_##S(const T* g, const T* rhs, const bool* mask, const long long* counts, const bool* same,      \
                        T* solution, unsigned char* space, long long bytes, long long p, long long n,               \
                        long long low, long long high) {                                                            \
    solve(g, rhs, mask, counts, same, solution, space, bytes, p, n, (int)low, (int)high);                           \
  }
FOR_ALL(ENTRIES)
