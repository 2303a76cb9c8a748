// CUDA C as C++, for a processor: stands before a kernel's source. A block runs at a time, each of
// its threads as a fiber with a stack of its own, so that barriers and shuffles mean what they mean
// on a GPU. Which fiber goes on is drawn at random, and one warp at a time runs ahead of the others
// as far as it can, so what lacks a barrier sooner or later reads what is not there yet, or no
// more. Shared memory starts as bytes of 0xff (float: not a number).
//
// Reported instead of emulated: a thread that ends while others wait for it, threads that wait at
// different barriers, and lanes that shuffle at different places.

#include <setjmp.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
// Static memory serves, because one block runs at a time. The section's ends are known to the
// linker.
#define __shared__ static __attribute__((section("emulated_shared")))

struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };

namespace emulator {

struct Index { unsigned x, y, z; };

enum State { READY, AT_BARRIER, AT_WARP, ENDED };

struct Fiber {
    State state;
    bool started;
    int site;         // Line of the source at which it waits.
    unsigned mask;    // Lanes that it waits for.
    unsigned source;  // Lane whose value it wants.
    uint64_t value;   // What it gives, then what it got.
    ucontext_t start;
    jmp_buf point;
};

enum { THREADS_MAX = 1024, LANES_IN_WARP = 32, STACK_BYTES = 64 << 10 };
enum { WARPS_IN_BLOCK_MAX = THREADS_MAX / LANES_IN_WARP };
// Once in so many times another warp is favoured.
enum { FAVOUR = 256 };

static Fiber fibers[THREADS_MAX];
static unsigned ready[WARPS_IN_BLOCK_MAX]; // Lanes of each warp that can go on.
static unsigned ready_count, favoured, threads, ended, at_barrier, current;
static char *stacks;
static jmp_buf scheduler;
static char fault[256];
static uint64_t random_state;
static void (*body)(void *);
static void *body_arguments;

static Index block_index, thread_index, block_size, grid_size;

static unsigned draw(unsigned below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)((random_state >> 32) * below >> 32);
}

__attribute__((noinline, noreturn)) static void fail(const char *format, ...)
{
    int used = snprintf(fault, sizeof fault, "block %u, thread %u: ", block_index.x, current);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(fault + used, sizeof fault - used, format, arguments);
    va_end(arguments);
    _longjmp(scheduler, 1);
}

// Returns when the scheduler has chosen this fiber again.
__attribute__((noinline)) static void wait()
{
    if (_setjmp(fibers[current].point) == 0) { _longjmp(scheduler, 1); }
}

static void wake(unsigned thread)
{
    fibers[thread].state = READY;
    ready[thread / LANES_IN_WARP] |= 1u << thread % LANES_IN_WARP;
    ++ready_count;
}

// Takes one of those that can go on, of which there is one.
static unsigned take_ready()
{
    unsigned warps = (threads + LANES_IN_WARP - 1) / LANES_IN_WARP;
    if (draw(FAVOUR) == 0) { favoured = draw(warps); }
    unsigned warp = favoured;
    if (!ready[warp]) {
        warp = draw(warps);
        while (!ready[warp]) { warp = (warp + 1) % warps; }
    }
    unsigned lane = draw(LANES_IN_WARP);
    while (!(ready[warp] >> lane & 1)) { lane = (lane + 1) % LANES_IN_WARP; }
    ready[warp] &= ~(1u << lane);
    --ready_count;
    return warp * LANES_IN_WARP + lane;
}

__attribute__((noinline)) static void barrier(int site)
{
    fibers[current].state = AT_BARRIER;
    fibers[current].site = site;
    ++at_barrier;
    if (at_barrier == threads) {
        at_barrier = 0;
        for (unsigned thread = 0; thread < threads; ++thread) {
            if (fibers[thread].site != site) {
                fail("waits at the barrier of line %d, thread %u at that of line %d", site, thread,
                     fibers[thread].site);
            }
        }
        for (unsigned thread = 0; thread < threads; ++thread) { wake(thread); }
    }
    wait();
}

// Gives `value` to the lanes of `mask` and returns the one of lane `source`.
__attribute__((noinline)) static uint64_t exchange(
    unsigned mask, uint64_t value, unsigned source, int site)
{
    Fiber &own = fibers[current];
    unsigned first = current / LANES_IN_WARP * LANES_IN_WARP;
    if (!(mask >> (current - first) & 1)) { fail("is not in its own mask at line %d", site); }
    own.state = AT_WARP;
    own.site = site;
    own.mask = mask;
    own.value = value;
    own.source = source;
    bool all = true;
    for (unsigned lane = 0; lane < LANES_IN_WARP; ++lane) {
        if (!(mask >> lane & 1)) { continue; }
        if (first + lane >= threads) { fail("waits for lane %u, which has no thread", lane); }
        const Fiber &other = fibers[first + lane];
        if (other.state == ENDED) { fail("waits at line %d for a thread that ended", site); }
        all = all && other.state == AT_WARP;
        if (other.state == AT_WARP && (other.site != site || other.mask != mask)) {
            fail("exchanges at line %d, lane %u at line %d", site, lane, other.site);
        }
    }
    if (all) {
        uint64_t given[LANES_IN_WARP] = {};
        for (unsigned lane = 0; lane < LANES_IN_WARP; ++lane) {
            if (mask >> lane & 1) { given[lane] = fibers[first + lane].value; }
        }
        for (unsigned lane = 0; lane < LANES_IN_WARP; ++lane) {
            if (!(mask >> lane & 1)) { continue; }
            Fiber &other = fibers[first + lane];
            if (!(mask >> other.source & 1)) { fail("wants lane %u, not in mask", other.source); }
            other.value = given[other.source];
            wake(first + lane);
        }
    }
    wait();
    return fibers[current].value;
}

template <class V> static uint64_t to_bits(V value)
{
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return bits;
}

template <class V> static V from_bits(uint64_t bits)
{
    V value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <class V> static V shuffle(unsigned mask, V value, unsigned source, int site)
{
    // A lane that does not exist gives back the caller's own value.
    unsigned lane = current % LANES_IN_WARP;
    return from_bits<V>(
        exchange(mask, to_bits(value), source < LANES_IN_WARP ? source : lane, site));
}

static void enter()
{
    body(body_arguments);
    fibers[current].state = ENDED;
    ++ended;
    _longjmp(scheduler, 1);
}

static void go_on(unsigned thread)
{
    current = thread;
    thread_index = {thread, 0, 0};
    Fiber &fiber = fibers[thread];
    if (fiber.started) { _longjmp(fiber.point, 1); }
    fiber.started = true;
    setcontext(&fiber.start);
}

// Runs one block to its end.
__attribute__((noinline)) static void run_block()
{
    ready_count = ended = at_barrier = 0;
    memset(ready, 0, sizeof ready);
    favoured = draw((threads + LANES_IN_WARP - 1) / LANES_IN_WARP);
    for (unsigned thread = 0; thread < threads; ++thread) {
        Fiber &fiber = fibers[thread];
        fiber.started = false;
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = stacks + (size_t)thread * STACK_BYTES;
        fiber.start.uc_stack.ss_size = STACK_BYTES;
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, enter, 0);
        wake(thread);
    }
    _setjmp(scheduler);
    if (fault[0]) { return; }
    if (ended && at_barrier) {
        snprintf(fault, sizeof fault, "block %u: a thread ended while another waits at a barrier",
                 block_index.x);
        return;
    }
    if (ready_count) { go_on(take_ready()); }
    if (ended < threads) {
        snprintf(fault, sizeof fault, "block %u: threads wait for each other", block_index.x);
    }
}

extern "C" char __start_emulated_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_emulated_shared[] __attribute__((weak, visibility("hidden")));

// The letter that stands for a parameter's type.
template <class A> constexpr char letter()
{
    if (std::is_pointer<A>::value) { return 'p'; }
    if (std::is_same<A, float>::value) { return 'f'; }
    if (std::is_same<A, double>::value) { return 'd'; }
    if (std::is_same<A, unsigned>::value) { return 'u'; }
    if (std::is_same<A, unsigned long long>::value) { return 'U'; }
    if (std::is_same<A, long long>::value) { return 'I'; }
    return '?';
}

template <class... A> struct Call {
    void (*kernel)(A...);
    void **arguments;

    template <size_t... I> void run(std::index_sequence<I...>)
    {
        kernel(*static_cast<A *>(arguments[I])...);
    }

    static void start(void *call)
    {
        static_cast<Call *>(call)->run(std::index_sequence_for<A...>());
    }
};

// Runs a grid, its blocks in random order. Returns what went wrong, or null.
template <class... A>
static const char *run_grid(
    void (*kernel)(A...), unsigned blocks, unsigned block_threads, uint64_t seed, const char *types,
    void **arguments)
{
    static char wanted[] = {letter<A>()..., 0};
    if (strcmp(types, wanted) != 0) {
        snprintf(fault, sizeof fault, "called with arguments %s instead of %s", types, wanted);
        return fault;
    }
    if (blocks == 0 || block_threads == 0 || block_threads > THREADS_MAX) {
        return "a grid without blocks, or blocks of no or too many threads";
    }
    if (!stacks) {
        void *memory = mmap(nullptr, (size_t)THREADS_MAX * STACK_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) { return "no memory for the stacks"; }
        stacks = static_cast<char *>(memory);
    }
    Call<A...> call{kernel, arguments};
    body = Call<A...>::start;
    body_arguments = &call;
    threads = block_threads;
    random_state = seed | 1;
    block_size = {block_threads, 1, 1};
    grid_size = {blocks, 1, 1};
    fault[0] = 0;
    unsigned *order = static_cast<unsigned *>(malloc(blocks * sizeof(unsigned)));
    for (unsigned i = 0; i < blocks; ++i) { order[i] = i; }
    for (unsigned i = blocks; i > 0 && !fault[0]; --i) {
        unsigned place = draw(i);
        block_index = {order[place], 0, 0};
        order[place] = order[i - 1];
        if (__start_emulated_shared) {
            memset(__start_emulated_shared, 0xff, __stop_emulated_shared - __start_emulated_shared);
        }
        run_block();
    }
    free(order);
    return fault[0] ? fault : nullptr;
}

} // namespace emulator

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define blockDim emulator::block_size
#define gridDim emulator::grid_size
#define __syncthreads() emulator::barrier(__LINE__)
#define __syncwarp() ((void)emulator::exchange(0xffffffffu, 0, 0, __LINE__))
#define __shfl_xor_sync(mask, value, distance) \
    emulator::shuffle(mask, value, (emulator::current % 32) ^ (unsigned)(distance), __LINE__)
#define __shfl_up_sync(mask, value, distance) \
    emulator::shuffle(mask, value, (emulator::current % 32) - (unsigned)(distance), __LINE__)
#define __shfl_sync(mask, value, lane) \
    emulator::shuffle(mask, value, (unsigned)(lane) % 32, __LINE__)

static inline float __uint_as_float(unsigned bits) { return emulator::from_bits<float>(bits); }
static inline unsigned __float_as_uint(float value) { return (unsigned)emulator::to_bits(value); }

// Fibers change only where they wait, so a plain addition is atomic.
template <class V> static V atomicAdd(V *to, V value)
{
    V before = *to;
    *to += value;
    return before;
}

#define EMULATE(name)                                                                             \
    extern "C" const char *emulate_##name(unsigned blocks, unsigned threads, uint64_t seed,       \
                                          const char *types, void **arguments)                    \
    {                                                                                             \
        return emulator::run_grid(name, blocks, threads, seed, types, arguments);                 \
    }
