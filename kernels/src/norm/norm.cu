// RMSNorm, and LayerNorm with -DCENTRED; formulas are in mod.rs, the reference is in cpu.rs.
//
// A block takes a row at a time, and a thread the same packs of every row, at most OWNED. So a row
// is loaded once, its values wait in registers for their mean, and the gradients of weight and bias
// gather in registers over all rows of a block. Most rows are narrow enough for one pack a thread,
// which leaves registers for more threads; -DWIDE is for the others.

#ifdef WIDE
enum { OWNED = 4, BLOCKS_MIN = 1 };
#else
enum { OWNED = 1, BLOCKS_MIN = 2 };
#endif
enum { THREADS_MAX = 512 };

#define EACH_OWNED_PACK(k, first)                                                                  \
    _Pragma("unroll") for (int k = 0; k < OWNED; ++k)                                              \
        if (unsigned first = (threadIdx.x + k * blockDim.x) * LANES; first < width)

extern "C" __global__ void __launch_bounds__(THREADS_MAX) norm_forward(
    const T *__restrict__ x,       // (rows, width)
    const T *__restrict__ added,   // (rows, width), or null
    const T *__restrict__ weight,  // (width), or null
    const T *__restrict__ bias,    // (width), or null
    T *__restrict__ sum,           // (rows, width), x + added; null where `added` is
    T *__restrict__ y,             // (rows, width)
    float *__restrict__ means,     // (rows), null without CENTRED
    float *__restrict__ scales,    // (rows)
    u64 rows,
    unsigned width,
    unsigned aligned,
    float epsilon)
{
    __shared__ float scratch[WARPS_MAX];
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        u64 base = row * width;
        float values[OWNED][LANES];
        float total = 0.0f;
        EACH_OWNED_PACK(k, first) {
            unsigned left = width - first;
            load(x + base + first, left, aligned, values[k]);
            if (added) {
                float other[LANES];
                load(added + base + first, left, aligned, other);
#pragma unroll
                for (int lane = 0; lane < LANES; ++lane) {
                    values[k][lane] = rounded(values[k][lane] + other[lane]);
                }
                store(sum + base + first, left, aligned, values[k]);
            }
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
#ifdef CENTRED
                total += values[k][lane];
#else
                total += values[k][lane] * values[k][lane];
#endif
            }
        }
        total = block_sum(total, scratch);
#ifdef CENTRED
        float mean = total / width;
        total = 0.0f;
        EACH_OWNED_PACK(k, first) {
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
                float deviation = values[k][lane] - mean;
                total += first + lane < width ? deviation * deviation : 0.0f;
            }
        }
        total = block_sum(total, scratch);
        if (threadIdx.x == 0) { means[row] = mean; }
#else
        float mean = 0.0f;
#endif
        float scale = 1.0f / sqrtf(total / width + epsilon);
        if (threadIdx.x == 0) { scales[row] = scale; }
        EACH_OWNED_PACK(k, first) {
            unsigned left = width - first;
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
                values[k][lane] = (values[k][lane] - mean) * scale;
            }
            if (weight) {
                float factor[LANES];
                load(weight + first, left, aligned, factor);
#pragma unroll
                for (int lane = 0; lane < LANES; ++lane) { values[k][lane] *= factor[lane]; }
            }
            if (bias) {
                float shift[LANES];
                load(bias + first, left, aligned, shift);
#pragma unroll
                for (int lane = 0; lane < LANES; ++lane) { values[k][lane] += shift[lane]; }
            }
            store(y + base + first, left, aligned, values[k]);
        }
    }
}

// The gradient of the normalised values and these, of one pack.
static __device__ __forceinline__ void load_pack(
    const T *y_gradient, const T *x, const T *weight, unsigned left, bool aligned, float mean,
    float scale, float slope[LANES], float normed[LANES], float gradient[LANES])
{
    load(y_gradient, left, aligned, gradient);
    load(x, left, aligned, normed);
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) {
        normed[lane] = lane < left ? (normed[lane] - mean) * scale : 0.0f;
        slope[lane] = gradient[lane];
    }
    if (weight) {
        float factor[LANES];
        load(weight, left, aligned, factor);
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) { slope[lane] *= factor[lane]; }
    }
}

// One block per multiprocessor suffices at the widest, so that every thread may have 128 registers.
extern "C" __global__ void __launch_bounds__(THREADS_MAX, BLOCKS_MIN) norm_backward(
    const T *__restrict__ y_gradient,  // (rows, width)
    const T *__restrict__ x,           // (rows, width), what was normalised
    const T *__restrict__ weight,      // (width), or null
    const T *passed,                   // (rows, width), x's gradient from elsewhere, or null
    T *x_gradient,                     // (rows, width), may be `passed`
    const float *__restrict__ means,   // (rows), null without CENTRED
    const float *__restrict__ scales,  // (rows)
    float *__restrict__ weight_sums,   // (blocks, width), or null
    float *__restrict__ bias_sums,     // (blocks, width), or null
    u64 rows,
    unsigned width,
    unsigned aligned)
{
    __shared__ float scratch[WARPS_MAX];
    float weight_sum[OWNED][LANES] = {};
#ifdef CENTRED
    float bias_sum[OWNED][LANES] = {};
#endif
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        u64 base = row * width;
        float scale = scales[row];
#ifdef CENTRED
        float mean = means[row];
#else
        float mean = 0.0f;
#endif
        float slope[LANES], normed[LANES], gradient[LANES];
        float slopes = 0.0f, products = 0.0f;
        for (unsigned first = threadIdx.x * LANES; first < width; first += blockDim.x * LANES) {
            load_pack(y_gradient + base + first, x + base + first, weight ? weight + first : weight,
                      width - first, aligned, mean, scale, slope, normed, gradient);
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
                slopes += slope[lane];
                products += slope[lane] * normed[lane];
            }
        }
#ifdef CENTRED
        slopes = block_sum(slopes, scratch) / width;
#else
        slopes = 0.0f;
#endif
        products = block_sum(products, scratch) / width;
        // The packs are in the nearest cache now. Registers for them too would be too many.
        EACH_OWNED_PACK(k, first) {
            unsigned left = width - first;
            load_pack(y_gradient + base + first, x + base + first, weight ? weight + first : weight,
                      left, aligned, mean, scale, slope, normed, gradient);
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
                weight_sum[k][lane] += gradient[lane] * normed[lane];
#ifdef CENTRED
                bias_sum[k][lane] += gradient[lane];
#endif
                slope[lane] = (slope[lane] - slopes - normed[lane] * products) * scale;
            }
            if (passed) {
                float other[LANES];
                load(passed + base + first, left, aligned, other);
#pragma unroll
                for (int lane = 0; lane < LANES; ++lane) { slope[lane] += other[lane]; }
            }
            store(x_gradient + base + first, left, aligned, slope);
        }
    }
    u64 base = (u64)blockIdx.x * width;
    EACH_OWNED_PACK(k, first) {
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            if (first + lane >= width) { continue; }
            if (weight_sums) { weight_sums[base + first + lane] = weight_sum[k][lane]; }
#ifdef CENTRED
            if (bias_sums) { bias_sums[base + first + lane] = bias_sum[k][lane]; }
#endif
        }
    }
}
