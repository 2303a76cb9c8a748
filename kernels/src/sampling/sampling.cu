// The next token of each row of scores; meaning in mod.rs, the reference in cpu.rs. A block per
// row.
//
// Nothing is sorted. Every token has a key of 56 bits whose order is the wanted one: highest score
// first, of equal ones the lowest token. What top_k, top_p and the draw ask for is the same each
// time: the first key at which the measures (1, or the weight) of all keys up to it reach a target.
// That key is found digit by digit, from the histogram of measures over the digit's values. Weights
// are whole numbers, so their sums do not depend on the order in which threads add.

enum { THREADS_MAX = 512, TOKEN_BITS = 24, KEY_BITS = 56, DIGIT_BITS = 8, DIGITS = 256 };

// The weight of the most probable token, so that 2^24 of them have a sum of 64 bits.
#define WHOLE 274877906944.0f // 2^38

static __device__ __forceinline__ u64 key_of(float score, unsigned token)
{
    unsigned bits = __float_as_uint(score);
    // Ascending as scores descend: negative ones in their bits' order, positive ones before.
    unsigned order = bits & 0x80000000u ? bits : 0x7fffffffu - bits;
    return (u64)order << TOKEN_BITS | token;
}

struct Measure {
    bool weighted;
    float highest;
    float temperature;
};

static __device__ __forceinline__ u64 measure_of(float score, Measure measure)
{
    if (!measure.weighted) { return 1; }
    return (u64)(expf((score - measure.highest) / measure.temperature) * WHOLE);
}

struct Shared {
    u64 histogram[DIGITS];
    u64 total;
    u64 rest;
    unsigned digit;
    float scratch[WARPS_MAX];
};

// The sum over the keys up to `limit`. All threads call it, as all below.
static __device__ u64 sum_of(
    const float *scores, unsigned width, bool aligned, u64 limit, Measure measure, Shared *shared)
{
    if (threadIdx.x == 0) { shared->total = 0; }
    __syncthreads();
    u64 own = 0;
    for (unsigned first = threadIdx.x * LANES; first < width; first += blockDim.x * LANES) {
        float values[LANES];
        load(scores + first, width - first, aligned, values);
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            bool counts = first + lane < width && key_of(values[lane], first + lane) <= limit;
            own += counts ? measure_of(values[lane], measure) : 0;
        }
    }
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        own += __shfl_xor_sync(ALL_LANES, own, distance);
    }
    if (threadIdx.x % WARP == 0) { atomicAdd(&shared->total, own); }
    __syncthreads();
    u64 total = shared->total;
    __syncthreads();
    return total;
}

// The first warp finds the digit at which the histogram's running sum reaches `target`.
static __device__ __forceinline__ void find_digit(u64 target, Shared *shared)
{
    enum { EACH = DIGITS / WARP };
    const u64 *bins = shared->histogram + threadIdx.x * EACH;
    u64 own = 0;
    for (int bin = 0; bin < EACH; ++bin) { own += bins[bin]; }
    u64 up_to = own;
#pragma unroll
    for (int distance = 1; distance < WARP; distance *= 2) {
        u64 other = __shfl_up_sync(ALL_LANES, up_to, distance);
        up_to += threadIdx.x >= distance ? other : 0;
    }
    u64 before = up_to - own;
    if (before < target && target <= up_to) {
        int bin = 0;
        while (target > before + bins[bin]) { before += bins[bin++]; }
        shared->digit = threadIdx.x * EACH + bin;
        shared->rest = target - before;
    }
}

// The first key at which the sum reaches `target`, which is in 1 ..= the sum over keys up to
// `limit`.
static __device__ u64 select(
    const float *scores, unsigned width, bool aligned, u64 limit, Measure measure, u64 target,
    Shared *shared)
{
    u64 found = 0;
    for (int shift = KEY_BITS - DIGIT_BITS; shift >= 0; shift -= DIGIT_BITS) {
        for (unsigned bin = threadIdx.x; bin < DIGITS; bin += blockDim.x) {
            shared->histogram[bin] = 0;
        }
        __syncthreads();
        // Neighbours often have the same digit; a thread adds them up before it adds to shared
        // memory.
        unsigned last = 0;
        u64 own = 0;
        for (unsigned first = threadIdx.x * LANES; first < width; first += blockDim.x * LANES) {
            float values[LANES];
            load(scores + first, width - first, aligned, values);
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
                u64 key = key_of(values[lane], first + lane);
                bool counts = first + lane < width && key <= limit &&
                              (key ^ found) >> (shift + DIGIT_BITS) == 0;
                if (!counts) { continue; }
                unsigned digit = (unsigned)(key >> shift) % DIGITS;
                if (digit != last) {
                    if (own) { atomicAdd(&shared->histogram[last], own); }
                    last = digit;
                    own = 0;
                }
                own += measure_of(values[lane], measure);
            }
        }
        if (own) { atomicAdd(&shared->histogram[last], own); }
        __syncthreads();
        if (threadIdx.x < WARP) { find_digit(target, shared); }
        __syncthreads();
        found |= (u64)shared->digit << shift;
        target = shared->rest;
    }
    return found;
}

// The highest score, or no number if there is one that is none, or if it is infinite.
static __device__ float highest_of(
    const float *scores, unsigned width, bool aligned, Shared *shared)
{
    float highest = MINUS_INFINITY;
    for (unsigned first = threadIdx.x * LANES; first < width; first += blockDim.x * LANES) {
        float values[LANES];
        load(scores + first, width - first, aligned, values);
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            if (first + lane >= width) { continue; }
            // A comparison with what is not a number is false.
            highest = values[lane] <= highest ? highest : values[lane];
            if (!(values[lane] == values[lane])) { highest = -MINUS_INFINITY; }
        }
    }
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        highest = fmaxf(highest, __shfl_xor_sync(ALL_LANES, highest, distance));
    }
    if (threadIdx.x % WARP == 0) { shared->scratch[threadIdx.x / WARP] = highest; }
    __syncthreads();
    for (unsigned warp = 0; warp < blockDim.x / WARP; ++warp) {
        highest = fmaxf(highest, shared->scratch[warp]);
    }
    __syncthreads();
    return fabsf(highest) == -MINUS_INFINITY ? NOT_A_NUMBER : highest;
}

static __device__ __forceinline__ u64 within(double target, u64 total)
{
    if (!(target >= 1.0)) { return 1; }
    return target >= (double)total ? total : (u64)target;
}

extern "C" __global__ void __launch_bounds__(THREADS_MAX, 2) sample(
    const float *__restrict__ scores,     // (rows, width)
    const double *__restrict__ uniforms,  // (rows), in [0, 1); null: the highest score is taken
    long long *__restrict__ tokens,       // (rows), -1 where scores are not numbers
    u64 rows,
    unsigned width,
    unsigned aligned,
    unsigned top_k,                       // at least `width`: all
    double top_p,                         // at least 1: all
    float temperature)
{
    __shared__ Shared shared;
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const float *values = scores + row * width;
        float highest = highest_of(values, width, aligned, &shared);
        if (!(highest == highest)) {
            if (threadIdx.x == 0) { tokens[row] = -1; }
            continue;
        }
        Measure count = {false, highest, temperature};
        Measure weight = {true, highest, temperature};
        u64 limit = ~0ull;
        if (!uniforms) { top_k = 1; }
        if (top_k < width) {
            limit = select(values, width, aligned, limit, count, top_k, &shared);
        }
        if (uniforms) {
            u64 total = sum_of(values, width, aligned, limit, weight, &shared);
            if (top_p < 1.0) {
                u64 target = within(ceil(top_p * (double)total), total);
                limit = select(values, width, aligned, limit, weight, target, &shared);
                total = sum_of(values, width, aligned, limit, weight, &shared);
            }
            u64 target = within(floor(uniforms[row] * (double)total) + 1.0, total);
            limit = select(values, width, aligned, limit, weight, target, &shared);
        } else if (width == 1) {
            limit = 0;
        }
        if (threadIdx.x == 0) { tokens[row] = (long long)(limit & ((1u << TOKEN_BITS) - 1)); }
    }
}
