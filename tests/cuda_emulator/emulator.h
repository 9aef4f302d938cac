// Runs a CUDA C kernel on the host: one block at a time, one fiber per thread, the same text that nvcc compiles.
//
// Covers indices, static and dynamic shared memory, __syncthreads, __syncwarp, shuffles, ballots, integer atomics and
// the arithmetic the kernels of sparsefact use. Finds barriers that not every thread reaches, and threads that return
// while others wait in a warp operation; compiled with -fsanitize=address also what is read or written out of bounds.
// Fibers run until they wait, in the order of their lanes or the reverse of it, so that a missing barrier shows up as a
// difference between the two orders. Dynamic shared memory begins as NaN.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

struct dim3 {
  unsigned x, y, z;
};

namespace emulator {

enum class State { ready, at_block, at_warp, done };

struct Fiber {
  ucontext_t context;
  jmp_buf jump;
  char* stack = nullptr;
  bool begun = false;
  dim3 index{0, 0, 0};
  unsigned lane = 0, warp = 0, turn = 0;
  State state = State::done;
};

inline dim3 grid_size{1, 1, 1}, block_size{1, 1, 1}, block_index{0, 0, 0};
inline Fiber* current;
inline std::vector<Fiber*> fibers;
inline unsigned threads;
inline int reversed_lanes;
inline ucontext_t home_context;
inline jmp_buf home_jump;
inline void (*body)(void*);
inline void* body_data;
inline char message[256];
inline unsigned char* dynamic_shared;
// two slots per lane: a lane cannot be two exchanges ahead of another one
inline uint64_t slots[32][2][32];

#if defined(__SANITIZE_ADDRESS__)
// slower, but the sanitizer follows it
inline void leave_for(Fiber* next) {
  Fiber* here = current;
  current = next;
  swapcontext(&here->context, &next->context);
}
inline void leave_for_home() { swapcontext(&current->context, &home_context); }
inline void enter(Fiber* next) {
  current = next;
  swapcontext(&home_context, &next->context);
}
#else
inline void go(Fiber* next) {
  current = next;
  if (next->begun) _longjmp(next->jump, 1);
  next->begun = true;
  setcontext(&next->context);
}
__attribute__((noinline)) inline void leave_for(Fiber* next) {
  if (!_setjmp(current->jump)) go(next);
}
__attribute__((noinline)) inline void leave_for_home() {
  if (!_setjmp(current->jump)) _longjmp(home_jump, 1);
}
__attribute__((noinline)) inline void enter(Fiber* next) {
  if (!_setjmp(home_jump)) go(next);
}
#endif

inline Fiber* next_ready(unsigned warp, unsigned from) {
  const unsigned first = warp * 32, size = threads - first < 32 ? threads - first : 32;
  for (unsigned i = from; i < size; i++) {
    Fiber* fiber = fibers[first + (reversed_lanes ? size - 1 - i : i)];
    if (fiber->state == State::ready) return fiber;
  }
  return nullptr;
}

inline void wait(State state) {
  Fiber* here = current;
  here->state = state;
  const unsigned first = here->warp * 32, size = threads - first < 32 ? threads - first : 32;
  Fiber* next = next_ready(here->warp, (reversed_lanes ? size - 1 - here->lane : here->lane) + 1);
  if (next)
    leave_for(next);
  else
    leave_for_home();
}

// A fiber serves one thread of every block in turn.
inline void serve() {
  for (;;) {
    body(body_data);
    wait(State::done);
  }
}

inline void make_fibers(unsigned count) {
  constexpr size_t size = 32 * 1024;  // the sanitizer clears its notes on all of it at every switch
  while (fibers.size() < count) {
    Fiber* fiber = new Fiber;
    fiber->stack = static_cast<char*>(malloc(size));
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = size;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, serve, 0);
    fibers.push_back(fiber);
  }
}

inline unsigned count_state(unsigned from, unsigned to, State state) {
  unsigned count = 0;
  for (unsigned t = from; t < to; t++) count += fibers[t]->state == state;
  return count;
}

// Bring a warp to a barrier of the block or to its end.
inline bool run_warp(unsigned warp) {
  const unsigned first = warp * 32, last = first + 32 < threads ? first + 32 : threads;
  for (;;) {
    while (Fiber* fiber = next_ready(warp, 0)) enter(fiber);
    const unsigned waiting = count_state(first, last, State::at_warp);
    if (!waiting) return true;
    if (waiting != last - first) {
      snprintf(message, sizeof message,
               "block (%u, %u, %u), warp %u: %u lanes wait in a warp operation, %u at __syncthreads, %u have returned",
               block_index.x, block_index.y, block_index.z, warp, waiting,
               count_state(first, last, State::at_block), count_state(first, last, State::done));
      return false;
    }
    for (unsigned t = first; t < last; t++) fibers[t]->state = State::ready;
  }
}

inline bool run_block() {
  for (unsigned t = 0; t < threads; t++) fibers[t]->state = State::ready, fibers[t]->turn = 0;
  const unsigned warps = (threads + 31) / 32;
  for (;;) {
    for (unsigned w = 0; w < warps; w++)
      if (!run_warp(reversed_lanes ? warps - 1 - w : w)) return false;
    const unsigned done = count_state(0, threads, State::done);
    if (done == threads) return true;
    if (done) {
      snprintf(message, sizeof message, "block (%u, %u, %u): %u threads wait at __syncthreads, %u have returned",
               block_index.x, block_index.y, block_index.z, threads - done, done);
      return false;
    }
    for (unsigned t = 0; t < threads; t++) fibers[t]->state = State::ready;
  }
}

inline void abandon() {  // after an error no fiber can be continued
  for (Fiber* fiber : fibers) {
    free(fiber->stack);
    delete fiber;
  }
  fibers.clear();
}

template <class F>
int launch(const unsigned* sizes, size_t shared, F& call) {
  grid_size = {sizes[0], sizes[1], sizes[2]};
  threads = sizes[3];
  block_size = {threads, 1, 1};
  if (threads == 0 || threads > 1024) {
    snprintf(message, sizeof message, "a block of %u threads is not possible", threads);
    return 1;
  }
  make_fibers(threads);
  for (unsigned t = 0; t < threads; t++) {
    fibers[t]->index = {t, 0, 0};
    fibers[t]->lane = t & 31;
    fibers[t]->warp = t >> 5;
  }
  body = [](void* data) { (*static_cast<F*>(data))(); };
  body_data = &call;
  // exactly as large as asked for, so that the sanitizer sees what lies beyond
  void* memory = nullptr;
  if (posix_memalign(&memory, 16, shared)) return 1;
  dynamic_shared = static_cast<unsigned char*>(memory);
  bool good = true;
  for (unsigned z = 0; good && z < grid_size.z; z++)
    for (unsigned y = 0; good && y < grid_size.y; y++)
      for (unsigned x = 0; good && x < grid_size.x; x++) {
        block_index = {x, y, z};
        memset(dynamic_shared, 0xff, shared);
        good = run_block();
      }
  free(dynamic_shared);
  if (!good) abandon();
  return good ? 0 : 1;
}

template <class T>
T exchange(T value, unsigned source) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most eight bytes");
  Fiber* here = current;
  auto& row = slots[here->warp][here->turn++ & 1];
  memcpy(&row[here->lane], &value, sizeof(T));
  wait(State::at_warp);
  T result;
  memcpy(&result, &row[source & 31], sizeof(T));
  return result;
}

inline unsigned ballot(bool flag) {
  Fiber* here = current;
  auto& row = slots[here->warp][here->turn++ & 1];
  row[here->lane] = flag;
  wait(State::at_warp);
  const unsigned first = here->warp * 32, size = threads - first < 32 ? threads - first : 32;
  unsigned result = 0;
  for (unsigned i = 0; i < size; i++) result |= static_cast<unsigned>(row[i]) << i;
  return result;
}

template <class T>
T fetch_add(T* p, T value) {
  const T old = *p;
  *p = old + value;
  return old;
}

// What an entry takes, a letter and a size each: "Pf4" a pointer to float, "i8" a long long.
template <class T>
void describe(char*& out) {
  typedef std::remove_cv_t<std::remove_pointer_t<T>> Base;
  if (std::is_pointer<T>::value) *out++ = 'P';
  const char kind = std::is_same<Base, bool>::value              ? 'b'
                    : std::is_floating_point<Base>::value        ? 'f'
                    : !std::is_integral<Base>::value             ? 'c'
                    : std::is_unsigned<Base>::value              ? 'u'
                                                                 : 'i';
  out += sprintf(out, "%c%zu ", kind, sizeof(Base));
}
template <class... A>
const char* description(void (*)(A...)) {
  static char text[8 * sizeof...(A) + 8];
  char* out = text;
  (describe<A>(out), ...);
  return text;
}

template <class... A, size_t... I>
int call(void (*kernel)(A...), const unsigned* sizes, size_t shared, void** arguments, std::index_sequence<I...>) {
  auto run = [=] { kernel(*static_cast<std::remove_cv_t<A>*>(arguments[I])...); };
  return launch(sizes, shared, run);
}
template <class... A>
int call(void (*kernel)(A...), const unsigned* sizes, size_t shared, void** arguments) {
  return call(kernel, sizes, shared, arguments, std::index_sequence_for<A...>());
}

}  // namespace emulator

#define EMULATOR_EXPORT extern "C" __attribute__((visibility("default")))
#define EMULATED(name)                                                                            \
  EMULATOR_EXPORT int emulated_##name(const unsigned* sizes, size_t shared, void** arguments) {   \
    return emulator::call(name, sizes, shared, arguments);                                        \
  }                                                                                               \
  EMULATOR_EXPORT const char* takes_##name() { return emulator::description(name); }
EMULATOR_EXPORT const char* emulator_message() { return emulator::message; }
EMULATOR_EXPORT void emulator_reverse(int on) { emulator::reversed_lanes = on; }

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(name) unsigned char* name = emulator::dynamic_shared

#define threadIdx (emulator::current->index)
#define blockIdx (emulator::block_index)
#define blockDim (emulator::block_size)
#define gridDim (emulator::grid_size)

inline void __syncthreads() { emulator::wait(emulator::State::at_block); }
inline void __syncwarp(unsigned = 0xffffffffu) { emulator::wait(emulator::State::at_warp); }

template <class T>
T __shfl_sync(unsigned, T value, int source) {
  return emulator::exchange(value, source);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int bits) {
  return emulator::exchange(value, emulator::current->lane ^ bits);
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned distance) {
  const unsigned lane = emulator::current->lane;
  return emulator::exchange(value, lane < distance ? lane : lane - distance);
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned distance) {
  const unsigned lane = emulator::current->lane;
  return emulator::exchange(value, lane + distance > 31 ? lane : lane + distance);
}
inline unsigned __ballot_sync(unsigned, bool flag) { return emulator::ballot(flag); }
inline bool __any_sync(unsigned, bool flag) { return emulator::ballot(flag) != 0; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }

// Integers only: sums of floating point numbers in whatever order threads arrive are not reproducible.
template <class T, class V>
T atomicAdd(T* p, V value) {
  static_assert(std::is_integral<T>::value, "atomic sums are for integers");
  return emulator::fetch_add(p, static_cast<T>(value));
}
template <class T, class V>
T atomicMax(T* p, V value) {
  static_assert(std::is_integral<T>::value, "atomic maxima are for integers");
  const T old = *p;
  if (static_cast<T>(value) > old) *p = static_cast<T>(value);
  return old;
}

template <class To, class From>
To emulator_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same number of bytes");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
inline unsigned __float_as_uint(float x) { return emulator_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return emulator_bits<float>(x); }
inline long long __double_as_longlong(double x) { return emulator_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emulator_bits<double>(x); }
template <class T>
T __ldg(const T* p) {
  return *p;
}
using std::fabs;
using std::fma;
using std::frexp;
using std::ldexp;
using std::sqrt;
