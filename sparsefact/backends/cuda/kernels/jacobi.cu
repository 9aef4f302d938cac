// The leading singular triples of many blocks B (p x q, p <= q) by one-sided Jacobi rotations, a thread block each.
//
// Rows of W (at first B) are rotated in pairs until all are orthogonal: W = J B, so B = J^H W, the norms of the rows are
// the singular values, the rows themselves the right vectors and the columns of J^H the left ones. Small values come out
// with high relative accuracy. A round turns p / 2 disjoint pairs, a warp each; p - 1 rounds (a round-robin) meet every
// pair once. W and J lie in shared memory where they fit, else in a workspace.
//
// Reference: J. Demmel, K. Veselic, "Jacobi's method is more accurate than QR", SIAM J. Matrix Anal. 13 (1992).
#include "block.cuh"

// Make rows i and j of W orthogonal; return whether they were not.
template <class T>
__device__ __forceinline__ bool rotate(T* w, T* turn, int i, int j, int p, long long q, RealOf<T> tolerance) {
  typedef RealOf<T> R;
  T *x = w + i * q, *y = w + j * q;
  const int lane = threadIdx.x & 31;
  R first = 0, second = 0;
  T cross = from_real<T>(0);
  for (long long t = lane; t < q; t += 32) {
    const T a = x[t], b = y[t];
    first += square(a);
    second += square(b);
    cross = cross + a * conjugate(b);
  }
  first = warp_sum(first), second = warp_sum(second), cross = warp_sum(cross);
  const R size = magnitude(cross);
  if (!(size > tolerance * sqrt(first) * sqrt(second)) || size == 0) return false;
  const R zeta = (second - first) / (2 * size), far = fabs(zeta);
  // beyond this the square would overflow, and the root is zeta to rounding
  R tangent = far > (R)1e15 ? 1 / (2 * far) : 1 / (far + sqrt(1 + far * far));
  tangent = zeta < 0 ? -tangent : tangent;
  const R cosine = 1 / sqrt(1 + tangent * tangent), sine = cosine * tangent;
  const T phase = (cross / size) * sine;
  for (long long t = lane; t < q; t += 32) {
    const T a = x[t], b = y[t];
    x[t] = a * cosine - phase * b;
    y[t] = conjugate(phase) * a + b * cosine;
  }
  x = turn + i * p, y = turn + j * p;
  for (int t = lane; t < p; t += 32) {
    const T a = x[t], b = y[t];
    x[t] = a * cosine - phase * b;
    y[t] = conjugate(phase) * a + b * cosine;
  }
  return true;
}

// Write a unit row orthogonal to the `before` rows above it: the coordinate direction that is farthest from them.
template <class T>
__device__ __forceinline__ void complete(T* v, int before, long long q) {
  typedef RealOf<T> R;
  const int lane = threadIdx.x & 31;
  R least = 2;
  long long where = 0;
  for (long long j = lane; j < q; j += 32) {
    R covered = 0;
    for (int k = 0; k < before; k++) covered += square(v[k * q + j]);
    if (covered < least) least = covered, where = j;
  }
  for (int step = 16; step > 0; step >>= 1) {
    const R other = __shfl_xor_sync(ALL_LANES, least, step);
    const long long there = __shfl_xor_sync(ALL_LANES, where, step);
    if (other < least || (other == least && there < where)) least = other, where = there;
  }
  T* row = v + before * q;
  for (long long j = lane; j < q; j += 32) row[j] = from_real<T>(j == where);
#pragma unroll 1
  for (int again = 0; again < 2; again++) {
#pragma unroll 1
    for (int k = 0; k < before; k++) {
      __syncwarp();
      const T* other = v + k * q;
      T along = from_real<T>(0);
      for (long long j = lane; j < q; j += 32) along = along + row[j] * conjugate(other[j]);
      along = warp_sum(along);
      for (long long j = lane; j < q; j += 32) row[j] = row[j] - along * other[j];
    }
  }
  R size = 0;
  for (long long j = lane; j < q; j += 32) size += square(row[j]);
  size = 1 / sqrt(warp_sum(size));
#pragma unroll 1
  for (long long j = lane; j < q; j += 32) row[j] = row[j] * size;
  __syncwarp();
}

template <class T>
__device__ void jacobi(const T* blocks, T* us, RealOf<T>* ss, T* vs, T* space, int p, long long q, int r, int sweeps) {
  typedef RealOf<T> R;
  DYNAMIC_SHARED(memory);
  __shared__ R scratch[32];
  __shared__ int turned, kept;
  const int warp = threadIdx.x >> 5, warps = blockDim.x >> 5, lane = threadIdx.x & 31;
  const long long held = p * q + (long long)p * p;
  R* sizes = reinterpret_cast<R*>(memory);
  T* w = space ? space + blockIdx.x * held : reinterpret_cast<T*>(sizes + 2 * ((p + 1) / 2));
  T* turn = w + p * q;
  const T* b = blocks + blockIdx.x * (p * q);
  R largest = 0;
  for (long long e = threadIdx.x; e < p * q; e += blockDim.x) {
    const R here = extent(b[e]);
    largest = here > largest ? here : largest;
  }
  const R power = power_near(block_max(largest, scratch));
#pragma unroll 1
  for (long long e = threadIdx.x; e < p * q; e += blockDim.x) w[e] = b[e] * power;
  for (int e = threadIdx.x; e < p * p; e += blockDim.x) turn[e] = from_real<T>(e / p == e % p);
  __syncthreads();
  const R tolerance = epsilon<R>() * sqrt((R)q);
  const int seats = p + (p & 1);
#pragma unroll 1
  for (int sweep = 0; sweep < sweeps; sweep++) {
    if (threadIdx.x == 0) turned = 0;
    __syncthreads();
#pragma unroll 1
    for (int round = 0; round < seats - 1; round++) {
#pragma unroll 1
      for (int t = warp; t < seats / 2; t += warps) {
        const int a = t == 0 ? seats - 1 : (round + t) % (seats - 1), c = (round + seats - 1 - t) % (seats - 1);
        const int i = a < c ? a : c, j = a < c ? c : a;
        if (j < p && rotate(w, turn, i, j, p, q, tolerance) && lane == 0) turned = 1;
      }
      __syncthreads();
    }
    if (!turned) break;
    __syncthreads();
  }
#pragma unroll 1
  for (int i = warp; i < p; i += warps) {
    R mine = 0;
    for (long long t = lane; t < q; t += 32) mine += square(w[i * q + t]);
    mine = warp_sum(mine);
    if (lane == 0) sizes[i] = sqrt(mine);
  }
  if (threadIdx.x == 0) kept = 0;
  __syncthreads();
  // squares of smaller rows are lost, and with them the direction
  const R floor = sizeof(R) == 4 ? (R)1e-16 : (R)1e-140;
  T *u = us + (long long)blockIdx.x * p * r, *v = vs + blockIdx.x * (r * q);
#pragma unroll 1
  for (int i = warp; i < p; i += warps) {
    const R size = sizes[i];
    int rank = 0;
    for (int j = 0; j < p; j++) rank += sizes[j] > size || (sizes[j] == size && j < i);
    if (rank >= r) continue;
    for (int t = lane; t < p; t += 32) u[(long long)t * r + rank] = conjugate(turn[i * p + t]);
    if (lane == 0) ss[(long long)blockIdx.x * r + rank] = size / power;
    if (!(size > floor)) continue;
    const R scale = 1 / size;
#pragma unroll 1
    for (long long t = lane; t < q; t += 32) v[rank * q + t] = w[i * q + t] * scale;
    if (lane == 0) atomicMax(&kept, rank + 1);
  }
  __syncthreads();
  if (warp == 0)
    for (int k = kept; k < r; k++) complete(v, k, q);
}

#define ENTRIES(T, S)                                                                                               \
  KERNEL(256) jacobi_##S(const T* blocks, T* u, RealOf<T>* s, T* v, T* space, long long p, long long q,             \
                         long long r, long long sweeps) {                                                           \
    jacobi(blocks, u, s, v, space, (int)p, q, (int)r, (int)sweeps);                                                 \
  }
FOR_ALL(ENTRIES)
