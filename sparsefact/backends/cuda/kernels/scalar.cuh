// Numbers and entry points: what every kernel of this room includes first.
//
// A kernel is a template over its number type; its `extern "C"` entries are made by FOR_REAL or FOR_ALL, one for each
// type, named kernel_f32, kernel_f64, kernel_c64, kernel_c128. DTYPES says which of them are wanted (a bit each).
// Parameters of entries are pointers, `long long` and `double`, nothing else: the launcher passes Python's numbers.
#ifndef SPARSEFACT_SCALAR_CUH
#define SPARSEFACT_SCALAR_CUH

#ifndef DTYPES
#define DTYPES 15
#endif
#if DTYPES & 1
#define IF_F32(ENTRY) ENTRY(float, f32)
#else
#define IF_F32(ENTRY)
#endif
#if DTYPES & 2
#define IF_F64(ENTRY) ENTRY(double, f64)
#else
#define IF_F64(ENTRY)
#endif
#if DTYPES & 4
#define IF_C64(ENTRY) ENTRY(Complex<float>, c64)
#else
#define IF_C64(ENTRY)
#endif
#if DTYPES & 8
#define IF_C128(ENTRY) ENTRY(Complex<double>, c128)
#else
#define IF_C128(ENTRY)
#endif
#define FOR_REAL(ENTRY) IF_F32(ENTRY) IF_F64(ENTRY)
#define FOR_ALL(ENTRY) FOR_REAL(ENTRY) IF_C64(ENTRY) IF_C128(ENTRY)
// Two blocks to a processor are enough: a kernel may have 128 registers rather than spill.
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads, 2)

// the emulator brings its own
#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

template <class R>
struct alignas(2 * sizeof(R)) Complex {
  R re, im;
};

template <class T>
struct Number {
  typedef T Real;
  static constexpr bool complex = false;
};
template <class R>
struct Number<Complex<R>> {
  typedef R Real;
  static constexpr bool complex = true;
};
template <class T>
using RealOf = typename Number<T>::Real;

template <class R>
__device__ __forceinline__ Complex<R> operator+(Complex<R> a, Complex<R> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class R>
__device__ __forceinline__ Complex<R> operator-(Complex<R> a, Complex<R> b) {
  return {a.re - b.re, a.im - b.im};
}
template <class R>
__device__ __forceinline__ Complex<R> operator*(Complex<R> a, Complex<R> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <class R>
__device__ __forceinline__ Complex<R> operator*(Complex<R> a, R b) {
  return {a.re * b, a.im * b};
}
template <class R>
__device__ __forceinline__ Complex<R> operator/(Complex<R> a, R b) {
  return {a.re / b, a.im / b};
}

template <class R>
__device__ __forceinline__ Complex<R> conjugate(Complex<R> a) {
  return {a.re, -a.im};
}
__device__ __forceinline__ float conjugate(float a) { return a; }
__device__ __forceinline__ double conjugate(double a) { return a; }

template <class R>
__device__ __forceinline__ R real_part(Complex<R> a) {
  return a.re;
}
__device__ __forceinline__ float real_part(float a) { return a; }
__device__ __forceinline__ double real_part(double a) { return a; }

// |a|^2
template <class R>
__device__ __forceinline__ R square(Complex<R> a) {
  return a.re * a.re + a.im * a.im;
}
__device__ __forceinline__ float square(float a) { return a * a; }
__device__ __forceinline__ double square(double a) { return a * a; }

// the largest magnitude of a part: within a factor sqrt(2) of |a|, and it cannot overflow
template <class R>
__device__ __forceinline__ R extent(Complex<R> a) {
  const R x = fabs(a.re), y = fabs(a.im);
  return x > y ? x : y;
}
__device__ __forceinline__ float extent(float a) { return fabsf(a); }
__device__ __forceinline__ double extent(double a) { return fabs(a); }

// |a|, without squares that leave the range
template <class R>
__device__ __forceinline__ R magnitude(Complex<R> a) {
  const R largest = extent(a);
  return largest > 0 ? largest * sqrt(square(a / largest)) : largest;
}
__device__ __forceinline__ float magnitude(float a) { return fabsf(a); }
__device__ __forceinline__ double magnitude(double a) { return fabs(a); }

template <class T>
__device__ __forceinline__ T from_real(RealOf<T> x) {
  if constexpr (Number<T>::complex)
    return T{x, 0};
  else
    return x;
}

// A power of two that brings `largest` near one: a product with it is exact. Neither it nor what it makes of numbers up
// to `largest` overflows.
__device__ __forceinline__ float power_near(float largest) {
  const int exponent = 254 - (int)(__float_as_uint(largest) >> 23 & 0xff);
  return __uint_as_float((unsigned)(exponent > 0 ? exponent : 1) << 23);
}
__device__ __forceinline__ double power_near(double largest) {
  const long long exponent = 2046 - (__double_as_longlong(largest) >> 52 & 0x7ff);
  return __longlong_as_double((exponent > 0 ? exponent : 1) << 52);
}

template <class R>
__device__ __forceinline__ R epsilon() {
  return sizeof(R) == 4 ? (R)1.1920928955078125e-07 : (R)2.220446049250313e-16;
}

#endif
