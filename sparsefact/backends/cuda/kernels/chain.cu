// Consecutive Kronecker-sparse factors on a tile of columns that stays in shared memory.
//
// With A and D the greatest common divisors of the factors' a and of their d, the rows (i Q + j) D + q of one (i, q) mix
// only with each other (D. H. Bailey, 1990, for the passes of a four-step FFT). A block takes `group` neighbouring sets
// of rows and up to `pitch` columns through all factors: memory is read once and written once. A factor of square blocks
// of 2, 4 or 8 works in place, each thread on the rows of a block and 16 bytes of columns; others write to the other half
// of the tile. Sums run over r in ascending order, whatever the tile.
#include "pack.cuh"

// What the host says of a factor: its (a, b, c, d) inside one set, log2 d or -1, the side of its blocks when it works in
// place or 0, and where its values begin: (sets, a, d, c, b) with b filled up to fours when it does not.
struct Stage {
  long long a, b, c, d, shift, side, at;
};

__device__ __forceinline__ unsigned quotient(unsigned n, unsigned d, int shift) { return shift < 0 ? n / d : n >> shift; }

template <class T, int S>
__device__ __forceinline__ void in_place(T* tile, const T* values, unsigned blocks, unsigned d, int shift, unsigned pitch,
                                         int bits) {
  constexpr int V = LANES<T>, C = S < 4 || Number<T>::complex ? 2 : 4;
  for (unsigned e = threadIdx.x; e < blocks << bits; e += blockDim.x) {
    const unsigned block = e >> bits, i = quotient(block, d, shift), step = d * pitch;
    T* first = tile + (i * S * d + (block - i * d)) * pitch + (e & ((1u << bits) - 1)) * V;
    const T* w = values + (unsigned long long)block * (S * S);
    Pack<T, V> in[S];
#pragma unroll
    for (int r = 0; r < S; r++) in[r] = load<T, V>(first + r * step);
#pragma unroll 1
    for (int p = 0; p < S; p += C) {
      Pack<T, V> out[C];
#pragma unroll
      for (int r = 0; r < S; r++) {
        const Pack<T, C> f = load<T, C>(w + r * S + p);
#pragma unroll
        for (int k = 0; k < C; k++)
#pragma unroll
          for (int l = 0; l < V; l++)
            out[k].at[l] = r ? out[k].at[l] + f.at[k] * in[r].at[l] : f.at[k] * in[r].at[l];
      }
#pragma unroll
      for (int k = 0; k < C; k++) store(first + (p + k) * step, out[k]);
    }
  }
}

// Any block size: a thread forms four rows of the product of a block.
template <class T>
__device__ __forceinline__ void across(const T* from, T* to, const T* values, unsigned blocks, unsigned b, unsigned c,
                                       unsigned d, int shift, unsigned pitch, int bits) {
  constexpr int V = LANES<T>;
  const unsigned fours = (b + 3) / 4, step = d * pitch;
  for (unsigned e = threadIdx.x; e < blocks * fours << bits; e += blockDim.x) {
    const unsigned rest = e >> bits, block = rest / fours, four = rest - block * fours;
    const unsigned i = quotient(block, d, shift), q = block - i * d, column = (e & ((1u << bits) - 1)) * V;
    const T* x = from + (i * c * d + q) * pitch + column;
    const T* w = values + ((unsigned long long)block * c * fours + four) * 4;
    Pack<T, V> out[4];
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
      for (int l = 0; l < V; l++) out[k].at[l] = from_real<T>(0);
#pragma unroll 2
    for (unsigned r = 0; r < c; r++) {
      const Pack<T, V> in = load<T, V>(x + r * step);
      const Pack<T, 4> f = load<T, 4>(w + (unsigned long long)r * fours * 4);
#pragma unroll
      for (int k = 0; k < 4; k++)
#pragma unroll
        for (int l = 0; l < V; l++) out[k].at[l] = out[k].at[l] + f.at[k] * in.at[l];
    }
    T* y = to + (i * b * d + q) * pitch + column;
#pragma unroll
    for (int k = 0; k < 4; k++)
      if (4 * four + k < b) store(y + (4 * four + k) * step, out[k]);
  }
}

// The row of the matrix that is row `r` of the tile, whose sets have `tall` rows each.
__device__ __forceinline__ long long row_of(unsigned r, long long first, unsigned tall, long long gap) {
  const unsigned set = r / tall;
  const long long s = first + set, i = s / gap;
  return (i * tall + (r - set * tall)) * gap + (s - i * gap);
}

template <class T>
__device__ void run(const T* x, T* y, const T* values, const Stage* stages, int count, const int* rows, long long sets,
                    long long gap, unsigned wide, unsigned high, long long batch, long long x_row, long long x_column,
                    long long y_row, long long y_column, long long group, unsigned pitch, int bits, unsigned half) {
  constexpr int V = LANES<T>;
  DYNAMIC_SHARED(memory);
  T *tile = reinterpret_cast<T*>(memory), *other = tile + half;
  const long long tiles = (batch + pitch - 1) / pitch;
  const long long first = blockIdx.x / tiles * group, column = blockIdx.x % tiles * pitch;
  const unsigned here = (unsigned)(sets - first < group ? sets - first : group);
  const unsigned few = pitch < 4 ? pitch : 4, mask = (1u << bits) - 1;
  if (x_column == 1) {
    const bool whole = x_row % V == 0 && aligned(x);
    for (unsigned e = threadIdx.x; e < here * wide << bits; e += blockDim.x) {
      const long long m = row_of(e >> bits, first, wide, gap), at = column + (e & mask) * V;
      store(tile + (e >> bits) * pitch + (e & mask) * V, load_some<T>(x + (rows ? rows[m] : m) * x_row + at, batch - at, whole));
    }
  } else {
    // eight rows of four columns to a warp: whole sectors of memory, and few conflicts in the tile
    for (unsigned e = threadIdx.x; e < here * wide * pitch; e += blockDim.x) {
      const unsigned rest = e / few, r = rest % (here * wide), c = rest / (here * wide) * few + e % few;
      const long long m = row_of(r, first, wide, gap);
      tile[r * pitch + c] = column + c < batch ? x[(rows ? rows[m] : m) * x_row + (column + c) * x_column] : from_real<T>(0);
    }
  }
  __syncthreads();
  for (int s = 0; s < count; s++) {
    const Stage stage = stages[s];
    const unsigned b = (unsigned)stage.b, c = (unsigned)stage.c, d = (unsigned)stage.d, each = (unsigned)(stage.a * d);
    const unsigned blocks = here * each;
    const int shift = (int)stage.shift, side = (int)stage.side;
    const T* w = values + stage.at + first * each * (long long)(side ? b * c : (b + 3) / 4 * 4 * c);
    if (side == 2) {
      in_place<T, 2>(tile, w, blocks, d, shift, pitch, bits);
    } else if (side == 4) {
      in_place<T, 4>(tile, w, blocks, d, shift, pitch, bits);
    } else if (side == 8) {
      in_place<T, 8>(tile, w, blocks, d, shift, pitch, bits);
    } else {
      across(tile, other, w, blocks, b, c, d, shift, pitch, bits);
      T* before = tile;
      tile = other;
      other = before;
    }
    __syncthreads();
  }
  if (y_column == 1) {
    const bool whole = y_row % V == 0 && aligned(y);
    for (unsigned e = threadIdx.x; e < here * high << bits; e += blockDim.x) {
      const long long at = column + (e & mask) * V;
      store_some(y + row_of(e >> bits, first, high, gap) * y_row + at, load<T, V>(tile + (e >> bits) * pitch + (e & mask) * V),
                 batch - at, whole);
    }
  } else {
    for (unsigned e = threadIdx.x; e < here * high * pitch; e += blockDim.x) {
      const unsigned rest = e / few, r = rest % (here * high), c = rest / (here * high) * few + e % few;
      if (column + c < batch) y[row_of(r, first, high, gap) * y_row + (column + c) * y_column] = tile[r * pitch + c];
    }
  }
}

// A block may have a whole processor's shared memory, and then needs as many threads as 128 registers each allow.
#define ENTRIES(T, S)                                                                                               \
  extern "C" __global__ void __launch_bounds__(512, 1) run_##S(                                                     \
      const T* x, T* y, const T* __restrict__ values, const long long* stages, long long count, const int* rows,    \
      long long sets, long long gap, long long wide, long long high, long long batch, long long x_row,              \
      long long x_column, long long y_row, long long y_column, long long group, long long pitch, long long bits,    \
      long long half) {                                                                                             \
    run(x, y, values, reinterpret_cast<const Stage*>(stages), (int)count, rows, sets, gap, (unsigned)wide,          \
        (unsigned)high, batch, x_row, x_column, y_row, y_column, group, (unsigned)pitch, (int)bits,                 \
        (unsigned)half);                                                                                            \
  }
FOR_ALL(ENTRIES)
