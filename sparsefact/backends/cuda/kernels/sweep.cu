// Rank-one splits of blocks of two rows, several levels while a panel of the stack is in shared memory.
//
// A panel is all rows of one residue modulo the d of the last level, in one column interval of the first level. A block
// of a level is two rows of it in one interval of columns; its dominant left vector u comes from the 2 x 2 Gram matrix in
// closed form, u^H B stays in the place of the first row, and what is left out is summed over the row that is dropped.
// So the stack is read once for all levels, and only the last remainder is written. A team of threads takes a block: as
// many as there are idle, at most one per column.
#include "block.cuh"

template <class R>
__device__ __forceinline__ R smallest_normal() {
  return sizeof(R) == 4 ? (R)1.17549435e-38f : (R)2.2250738585072014e-308;
}

// Sums over a team of `lanes` neighbouring threads, a power of two; all threads of the block must come.
template <class R>
__device__ __forceinline__ void team_sums(R (&sums)[4], unsigned lanes, R* scratch) {
  const unsigned inner = lanes < 32 ? lanes : 32;
  for (unsigned step = inner >> 1; step > 0; step >>= 1)
    for (int k = 0; k < 4; k++) sums[k] += __shfl_xor_sync(ALL_LANES, sums[k], step);
  if (lanes <= 32) return;
  const unsigned warp = threadIdx.x >> 5, warps = lanes >> 5, first = warp & ~(warps - 1);
  __syncthreads();
  if ((threadIdx.x & 31) == 0)
    for (int k = 0; k < 4; k++) scratch[4 * warp + k] = sums[k];
  __syncthreads();
  for (int k = 0; k < 4; k++) sums[k] = 0;
  for (unsigned w = first; w < first + warps; w++)
    for (int k = 0; k < 4; k++) sums[k] += scratch[4 * w + k];
}

template <class T>
__device__ __forceinline__ T from_parts(RealOf<T> re, RealOf<T> im) {
  if constexpr (Number<T>::complex)
    return T{re, im};
  else
    return re;
}

template <class R>
__device__ __forceinline__ R imaginary_part(Complex<R> a) {
  return a.im;
}
__device__ __forceinline__ float imaginary_part(float) { return 0; }
__device__ __forceinline__ double imaginary_part(double) { return 0; }

// The dominant eigenvector (u, v), u real, of the Gram matrix with diagonal s[0], s[1] and entry s[2] + i s[3]. Of the two
// forms of an eigenvector the one without cancellation is taken.
template <class T>
__device__ __forceinline__ void dominant_pair(const RealOf<T> (&s)[4], RealOf<T>* u, T* v) {
  typedef RealOf<T> R;
  const R trace = s[0] + s[1], scale = trace > smallest_normal<R>() ? 1 / trace : (R)0;
  const R half = (s[0] - s[1]) * scale / 2, re = s[2] * scale, im = s[3] * scale;
  const R size = Number<T>::complex ? sqrt(re * re + im * im) : (R)fabs(re);
  const R root = sqrt(half * half + size * size);
  R first = half >= 0 ? half + root : size;
  const R second = half >= 0 ? size : root - half;
  first = root > 0 ? first : (R)1;
  const R norm = 1 / sqrt(first * first + second * second);
  *u = first * norm;
  *v = size > 0 ? from_parts<T>(re / size, -im / size) * (second * norm) : from_real<T>(second * norm);
}

struct alignas(16) Sixteen {
  unsigned long long low, high;
};

// Copy `rows` runs of `cols` numbers, `gap` apart, to a panel.
template <class T>
__device__ __forceinline__ void load_panel(const T* source, T* panel, unsigned rows, unsigned cols, long long gap) {
  constexpr unsigned many = 16 / sizeof(T);
  if (cols % many == 0 && gap % many == 0 && reinterpret_cast<unsigned long long>(source) % 16 == 0) {
    const unsigned wide = cols / many;
    Sixteen* to = reinterpret_cast<Sixteen*>(panel);
#pragma unroll 4
    for (unsigned e = threadIdx.x; e < rows * wide; e += blockDim.x)
      to[e] = *reinterpret_cast<const Sixteen*>(source + e / wide * gap + e % wide * many);
  } else {
    for (unsigned e = threadIdx.x; e < rows * cols; e += blockDim.x) panel[e] = source[e / cols * gap + e % cols];
  }
}

// x (k, 2^count * apart, cols * intervals) in panels, one per thread block. `inner` holds the numbers of intervals into
// which the levels after the first cut those before, eight bits each. Row 0 of `partial` takes the energy of each panel,
// row 1 + level what the level leaves out.
template <class T>
__device__ void peel(const T* x, T* lefts, T* rest, double* partial, unsigned apart, unsigned cols, unsigned intervals,
                     unsigned long long inner, unsigned count) {
  typedef RealOf<T> R;
  DYNAMIC_SHARED(memory);
  __shared__ R scratch[4 * 32];
  __shared__ double sums_of_block[32];
  T* panel = reinterpret_cast<T*>(memory);
  const unsigned rows = 1u << count, residue = blockIdx.x % apart;
  const long long entry = blockIdx.x / apart, width_of_stack = (long long)cols * intervals;
  const long long top = (entry / intervals * rows * apart + residue) * width_of_stack + entry % intervals * cols;
  load_panel(x + top, panel, rows, cols, apart * width_of_stack);
  __syncthreads();
  unsigned pieces = 1, width = cols, cut = intervals;
  // of the stack: entries times intervals of a level, and where its bases begin
  const long long entries = gridDim.x / apart;
  long long begin = 0;
  double energy = 0;
#pragma unroll 1
  for (unsigned level = 0; level < count; level++) {
    if (level > 0) {
      cut = inner & 255;
      inner >>= 8;
      pieces *= cut;
      width /= cut;
    }
    const unsigned step = rows >> (level + 1), blocks = step * pieces;
    unsigned lanes = 1;
    while (lanes < width && (lanes < 32 || 2 * lanes * blocks <= blockDim.x) && 2 * lanes <= blockDim.x) lanes <<= 1;
    const unsigned lane = threadIdx.x & (lanes - 1), teams = blockDim.x / lanes;
    double lost = 0;
#pragma unroll 1
    for (unsigned first = 0; first < blocks; first += teams) {
      const unsigned block = first + threadIdx.x / lanes;
      const bool here = block < blocks;
      const unsigned row = block / pieces, piece = block % pieces;
      T *p = panel + (row * cols + piece * width), *q = p + step * cols;
      R s[4] = {0, 0, 0, 0};
      if (here)
#pragma unroll 4
        for (unsigned j = lane; j < width; j += lanes) {
          const T a = p[j], c = q[j], cross = a * conjugate(c);
          s[0] += square(a);
          s[1] += square(c);
          s[2] += real_part(cross);
          s[3] += imaginary_part(cross);
        }
      team_sums(s, lanes, scratch);
      R u;
      T v;
      dominant_pair<T>(s, &u, &v);
      if (!here) continue;
      R missed = 0;
      const T back = conjugate(v);
#pragma unroll 4
      for (unsigned j = lane; j < width; j += lanes) {
        const T a = p[j], c = q[j];
        p[j] = a * u + back * c;
        missed += square(c * u - v * a);
      }
      lost += missed;
      if (lane == 0) {
        if (level == 0) energy += (double)s[0] + (double)s[1];
        const long long e = entry * pieces + piece, d = (long long)apart * step;
        T* left = lefts + begin + ((e / cut * 2) * cut + e % cut) * d + residue + (long long)apart * row;
        left[0] = from_real<T>(u);
        left[cut * d] = v;
      }
    }
    begin += 2 * entries * pieces * (long long)apart * step;
    lost = block_sum(lost, sums_of_block);
    if (threadIdx.x == 0) partial[(level + 1) * (long long)gridDim.x + blockIdx.x] = lost;
    __syncthreads();
  }
  energy = block_sum(energy, sums_of_block);
  if (threadIdx.x == 0) partial[blockIdx.x] = energy;
  for (unsigned j = threadIdx.x; j < cols; j += blockDim.x)
    rest[((entry * pieces + j / width) * apart + residue) * width + j % width] = panel[j];
}

// The sum of each row of `partial`, a thread block each.
KERNEL(256) fold(const double* partial, double* sums, long long count) {
  __shared__ double scratch[32];
  const double* row = partial + blockIdx.x * count;
  double total = 0;
  for (long long j = threadIdx.x; j < count; j += blockDim.x) total += row[j];
  total = block_sum(total, scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

#define ENTRIES(T, S)                                                                                               \
  KERNEL(256) peel_##S(const T* x, T* lefts, T* rest, double* partial, long long apart, long long cols,             \
                       long long intervals, long long inner, long long count) {                                     \
    peel(x, lefts, rest, partial, (unsigned)apart, (unsigned)cols, (unsigned)intervals, (unsigned long long)inner,  \
         (unsigned)count);                                                                                          \
  }
FOR_ALL(ENTRIES)
