// Cross-entropy of rows of logits, which are replaced by their gradient; formula in mod.rs, the
// reference in cpu.rs. A block per row reads it twice and writes it once. The second time it comes
// from the second-level cache, which holds the rows of all blocks that run at once.

enum { THREADS_MAX = 512 };

// The sum of exp(value - highest) over the values seen so far.
struct Partial {
    float highest;
    float sum;
};

static __device__ __forceinline__ Partial join(Partial a, Partial b)
{
    float highest = fmaxf(a.highest, b.highest);
    // Where nothing has been seen, minus infinity minus itself would not be a number.
    float reference = highest == MINUS_INFINITY ? 0.0f : highest;
    float sum = a.sum * quick_exp(a.highest - reference) + b.sum * quick_exp(b.highest - reference);
    return {highest, sum};
}

static __device__ __forceinline__ Partial block_join(
    Partial own, float highest[WARPS_MAX], float sums[WARPS_MAX])
{
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        Partial other;
        other.highest = __shfl_xor_sync(ALL_LANES, own.highest, distance);
        other.sum = __shfl_xor_sync(ALL_LANES, own.sum, distance);
        own = join(own, other);
    }
    if (threadIdx.x % WARP == 0) {
        highest[threadIdx.x / WARP] = own.highest;
        sums[threadIdx.x / WARP] = own.sum;
    }
    __syncthreads();
    Partial total = {MINUS_INFINITY, 0.0f};
    for (unsigned warp = 0; warp < blockDim.x / WARP; ++warp) {
        total = join(total, {highest[warp], sums[warp]});
    }
    __syncthreads();
    return total;
}

static __device__ __forceinline__ float capped(float value, float cap)
{
    return cap > 0.0f ? cap * tanhf(value / cap) : value;
}

// A pack of logits, capped; minus infinity for those that are not there.
static __device__ __forceinline__ void load_capped(
    const T *from, unsigned left, bool aligned, float cap, float z[LANES])
{
    load(from, left, aligned, z);
    if (cap > 0.0f) {
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) { z[lane] = capped(z[lane], cap); }
    }
    if (left < LANES) {
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            if (lane >= left) { z[lane] = MINUS_INFINITY; }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS_MAX) cross_entropy(
    T *logits,                               // (rows, width); becomes the gradient
    const long long *__restrict__ targets,   // (rows)
    float *__restrict__ losses,              // (rows)
    const float *__restrict__ factor,        // (1), or null: the gradient is multiplied by it
    u64 rows,
    unsigned width,
    unsigned aligned,
    unsigned backward,                       // 0: losses only, and logits stay
    long long not_scored,
    float cap,                               // 0: none
    float scale)
{
    __shared__ float highest[WARPS_MAX];
    __shared__ float sums[WARPS_MAX];
    if (factor) { scale *= *factor; }
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        T *values = logits + row * width;
        long long target = targets[row];
        bool scored = target != not_scored;
        float z[LANES];
        Partial own = {MINUS_INFINITY, 0.0f};
        if (scored) {
            for (unsigned first = threadIdx.x * LANES; first < width; first += blockDim.x * LANES) {
                load_capped(values + first, width - first, aligned, cap, z);
                Partial pack = {MINUS_INFINITY, 0.0f};
#pragma unroll
                for (int lane = 0; lane < LANES; ++lane) {
                    pack.highest = fmaxf(pack.highest, z[lane]);
                }
                float reference = pack.highest == MINUS_INFINITY ? 0.0f : pack.highest;
#pragma unroll
                for (int lane = 0; lane < LANES; ++lane) {
                    pack.sum += quick_exp(z[lane] - reference);
                }
                own = join(own, pack);
            }
        }
        Partial total = block_join(own, highest, sums);
        float share = 1.0f / total.sum;
        // A target that is no token makes the loss no number, so that it can not pass unseen.
        bool valid = target >= 0 && target < width;
        if (threadIdx.x == 0) {
            float hit = valid ? capped(to_float(values[target]), cap) : NOT_A_NUMBER;
            // The highest is taken off first: beside a large one the sum's logarithm would lose its
            // digits.
            losses[row] = scored ? logf(total.sum) + (total.highest - hit) : 0.0f;
        }
        if (!backward) { continue; }
        // The first thread has read the target's logit before it is replaced.
        __syncthreads();
        float slope = valid ? scale : NOT_A_NUMBER;
        // A column that comes never, where the target is no token.
        unsigned hit = valid ? (unsigned)target : width;
        for (unsigned first = threadIdx.x * LANES; first < width; first += blockDim.x * LANES) {
            unsigned left = width - first, place = hit - first;
            if (!scored) {
                float zeros[LANES] = {};
                store(values + first, left, aligned, zeros);
                continue;
            }
            load_capped(values + first, left, aligned, cap, z);
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
                float bend = slope;
                if (cap > 0.0f) { bend *= 1.0f - (z[lane] / cap) * (z[lane] / cap); }
                float probability = quick_exp(z[lane] - total.highest) * share;
                z[lane] = (probability - (place == lane ? 1.0f : 0.0f)) * bend;
            }
            store(values + first, left, aligned, z);
        }
    }
}
