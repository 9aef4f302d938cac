// The k-th largest magnitude by radix select on the bits of |x|, and exact masks of the k largest; no host in between.
//
// The bits of a positive number grow with it; all NaN get one key above infinity. A digit of the key is fixed per pass,
// the highest first: a histogram of that digit among the entries that agree so far, then the bin in which the k-th
// largest lies. What is left at the end is the key, and how many of its equals belong to the k largest. Of those the
// first ones in C order are kept, so blocks count the equals in their own stretch and a scan gives each its share.
//
// state: prefix (at the end the key), rank within it (at the end the equals kept), equals in all.
#include "block.cuh"

typedef unsigned long long Count;

#define BINS 2048
#define DIGIT 11
#define ROW_BINS 256
#define ROW_DIGIT 8

template <class R>
struct Key;
template <>
struct Key<float> {
  typedef unsigned Type;
  static constexpr int bits = 31;
  static constexpr Type infinity = 0x7f800000u, nan = 0x7fffffffu;
  static __device__ __forceinline__ Type raw(float x) { return __float_as_uint(x); }
  static __device__ __forceinline__ float value(Type key) { return __uint_as_float(key); }
};
template <>
struct Key<double> {
  typedef unsigned long long Type;
  static constexpr int bits = 63;
  static constexpr Type infinity = 0x7ff0000000000000ull, nan = 0x7fffffffffffffffull;
  static __device__ __forceinline__ Type raw(double x) { return (Type)__double_as_longlong(x); }
  static __device__ __forceinline__ double value(Type key) { return __longlong_as_double((long long)key); }
};

template <class R>
__device__ __forceinline__ typename Key<R>::Type key_of(R x) {
  const typename Key<R>::Type key = Key<R>::raw(x) & Key<R>::nan;
  return key > Key<R>::infinity ? Key<R>::nan : key;
}

// where the digit of a pass begins, and how many bits it has
__device__ __forceinline__ int shift_of(int bits, int digit, int pass) {
  const int shift = bits - digit * (pass + 1);
  return shift > 0 ? shift : 0;
}
__device__ __forceinline__ int width_of(int bits, int digit, int pass) {
  const int left = bits - digit * pass;
  return left < digit ? left : digit;
}

template <class R>
__device__ void histogram(const R* x, long long n, const Count* state, Count* bins, int pass) {
  __shared__ unsigned own[BINS];
  for (int i = threadIdx.x; i < BINS; i += blockDim.x) own[i] = 0;
  __syncthreads();
  const int shift = shift_of(Key<R>::bits, DIGIT, pass), width = width_of(Key<R>::bits, DIGIT, pass);
  const typename Key<R>::Type prefix = pass ? (typename Key<R>::Type)state[0] : 0, digits = (1u << width) - 1;
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
    const typename Key<R>::Type key = key_of(x[i]) >> shift;
    if (pass == 0 || key >> width == prefix) atomicAdd(&own[key & digits], 1u);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < BINS; i += blockDim.x)
    if (own[i]) atomicAdd(&bins[i], (Count)own[i]);
}

// Walk from the largest bin down to the one that holds rank `rank`; `found` receives it, the rank inside, its size.
template <class C>
__device__ __forceinline__ void walk(const C* bins, int count, Count rank, Count* found, Count* scratch) {
  const int each = count / blockDim.x, first = count - 1 - each * threadIdx.x;
  Count mine = 0, total;
  for (int i = 0; i < each; i++) mine += bins[first - i];
  Count above = block_before(mine, scratch, &total);
  if (above < rank && rank <= above + mine) {
    for (int i = 0; i < each; i++) {
      const Count here = bins[first - i];
      if (above < rank && rank <= above + here) {
        found[0] = first - i;
        found[1] = rank - above;
        found[2] = here;
      }
      above += here;
    }
  }
  __syncthreads();
}

template <class R>
__device__ void pick(Count* state, Count* bins, int pass, long long k, R* threshold, long long* ties) {
  __shared__ Count found[3], scratch[32];
  const Count rank = pass ? state[1] : (Count)k, prefix = pass ? state[0] : 0;
  walk(bins, BINS, rank, found, scratch);
  for (int i = threadIdx.x; i < BINS; i += blockDim.x) bins[i] = 0;
  if (threadIdx.x == 0) {
    const Count key = prefix << width_of(Key<R>::bits, DIGIT, pass) | found[0];
    state[0] = key;
    state[1] = found[1];
    state[2] = found[2];
    *threshold = Key<R>::value((typename Key<R>::Type)key);
    *ties = (long long)found[1];
  }
}

template <class R>
__device__ void count_ties(const R* x, long long n, long long stretch, const Count* state, Count* counts) {
  __shared__ Count scratch[32];
  if (state[1] == state[2]) return;  // all of them are kept
  const typename Key<R>::Type threshold = (typename Key<R>::Type)state[0];
  const long long start = blockIdx.x * stretch, stop = start + stretch < n ? start + stretch : n;
  Count mine = 0, total;
  for (long long i = start + threadIdx.x; i < stop; i += blockDim.x) mine += key_of(x[i]) == threshold;
  block_before(mine, scratch, &total);
  if (threadIdx.x == 0) counts[blockIdx.x] = total;
}

// Replace counts by the sums of those before: one block.
__device__ void scan(Count* counts, long long n, const Count* state) {
  __shared__ Count scratch[32];
  if (state[1] == state[2]) return;
  Count carry = 0, total;
  for (long long start = 0; start < n; start += blockDim.x) {
    const long long i = start + threadIdx.x;
    const Count mine = i < n ? counts[i] : 0;
    const Count before = block_before(mine, scratch, &total);
    if (i < n) counts[i] = carry + before;
    carry += total;
  }
}

// Keep what is above the threshold and the first `ties` of its equals, of which `seen` come before this stretch.
template <class R>
__device__ __forceinline__ void write_mask(const R* x, long long start, long long stop, typename Key<R>::Type threshold,
                                           Count ties, Count seen, bool all, bool* mask, unsigned* scratch) {
  for (long long tile = start; tile < stop; tile += blockDim.x) {
    const long long i = tile + threadIdx.x;
    const typename Key<R>::Type key = i < stop ? key_of(x[i]) : 0;
    bool keep = key > threshold;
    if (all) {
      keep = key >= threshold;
    } else {
      unsigned total;
      const bool equal = i < stop && key == threshold;
      const Count before = seen + flags_before(equal, scratch, &total);
      keep = keep || (equal && before < ties);
      seen += total;
    }
    if (i < stop) mask[i] = keep;
  }
}

template <class R>
__device__ void top(const R* x, long long n, long long stretch, const Count* state, const Count* counts, bool* mask) {
  __shared__ unsigned scratch[32];
  const bool all = state[1] == state[2];
  const long long start = blockIdx.x * stretch, stop = start + stretch < n ? start + stretch : n;
  const Count seen = all ? 0 : counts[blockIdx.x];
  write_mask(x, start, stop, (typename Key<R>::Type)state[0], state[1], seen, all, mask, scratch);
}

// One block per row does all the passes; with a mask it writes that too.
template <class R>
__device__ void select_row(const R* x, long long length, long long k, R* threshold, long long* ties, bool* mask) {
  __shared__ unsigned bins[ROW_BINS], flags[32];
  __shared__ Count found[3], scratch[32];
  const R* row = x + blockIdx.x * length;
  typename Key<R>::Type prefix = 0;
  Count rank = k;
  for (int pass = 0; pass * ROW_DIGIT < Key<R>::bits; pass++) {
    for (int i = threadIdx.x; i < ROW_BINS; i += blockDim.x) bins[i] = 0;
    __syncthreads();
    const int shift = shift_of(Key<R>::bits, ROW_DIGIT, pass), width = width_of(Key<R>::bits, ROW_DIGIT, pass);
    for (long long i = threadIdx.x; i < length; i += blockDim.x) {
      const typename Key<R>::Type key = key_of(row[i]) >> shift;
      if (pass == 0 || key >> width == prefix) atomicAdd(&bins[key & ((1u << width) - 1)], 1u);
    }
    __syncthreads();
    walk(bins, ROW_BINS, rank, found, scratch);
    prefix = prefix << width | (typename Key<R>::Type)found[0];
    rank = found[1];
    __syncthreads();
  }
  if (mask) {
    write_mask(row, 0, length, prefix, rank, 0, rank == found[2], mask + blockIdx.x * length, flags);
  } else if (threadIdx.x == 0) {
    threshold[blockIdx.x] = Key<R>::value(prefix);
    ties[blockIdx.x] = (long long)rank;
  }
}

#define ENTRIES(R, S)                                                                                               \
  KERNEL(256) histogram_##S(const R* x, long long n, const Count* state, Count* bins, long long pass) {             \
    histogram(x, n, state, bins, (int)pass);                                                                        \
  }                                                                                                                 \
  KERNEL(256) pick_##S(Count* state, Count* bins, long long pass, long long k, R* threshold, long long* ties) {     \
    pick(state, bins, (int)pass, k, threshold, ties);                                                               \
  }                                                                                                                 \
  KERNEL(256) count_ties_##S(const R* x, long long n, long long stretch, const Count* state, Count* counts) {       \
    count_ties(x, n, stretch, state, counts);                                                                       \
  }                                                                                                                 \
  KERNEL(256) scan_##S(Count* counts, long long n, const Count* state) { scan(counts, n, state); }                  \
  KERNEL(256) top_##S(const R* x, long long n, long long stretch, const Count* state, const Count* counts,          \
                      bool* mask) {                                                                                 \
    top(x, n, stretch, state, counts, mask);                                                                        \
  }                                                                                                                 \
  KERNEL(256) kth_of_rows_##S(const R* x, long long length, long long k, R* threshold, long long* ties) {           \
    select_row(x, length, k, threshold, ties, (bool*)0);                                                            \
  }                                                                                                                 \
  KERNEL(256) top_of_rows_##S(const R* x, long long length, long long k, bool* mask) {                              \
    select_row(x, length, k, (R*)0, (long long*)0, mask);                                                           \
  }
FOR_REAL(ENTRIES)
