// What stands between the two matrices of an MLP; formulas in mod.rs, references in cpu.rs. One
// pass over memory each. One pack per thread, and for SwiGLU a block per row, because its two
// inputs lie in the same row.

enum { THREADS_MAX = 256 };

// GELU's y and y' at x.
static __device__ __forceinline__ void gelu(float x, float *y, float *slope)
{
    const float root = 0.79788456f; // sqrt(2 / pi)
    float square = x * x;
    float t = tanhf(root * (x + 0.044715f * square * x));
    float bend = root * (1.0f + 0.134145f * square);
    *y = 0.5f * x * (1.0f + t);
    float flat = 1.0f - t * t;
    // Far from zero t is flat before its bend grows too large to be a number.
    *slope = 0.5f * (1.0f + t) + (flat == 0.0f ? 0.0f : 0.5f * x * flat * bend);
}

static __device__ __forceinline__ void relu_squared(float x, float *y, float *slope)
{
    // Written so that what is not a number stays none.
    float above = x < 0.0f ? 0.0f : x;
    *y = above * above;
    *slope = 2.0f * above;
}

#define POINTWISE(name)                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS_MAX)                                      \
    name##_forward(const T *__restrict__ x, T *__restrict__ y, u64 n, unsigned aligned)            \
    {                                                                                              \
        u64 first = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * LANES;                          \
        if (first >= n) { return; }                                                                \
        float values[LANES], slope;                                                                \
        load(x + first, n - first, aligned, values);                                               \
        _Pragma("unroll") for (int lane = 0; lane < LANES; ++lane)                                 \
        {                                                                                          \
            name(values[lane], &values[lane], &slope);                                             \
        }                                                                                          \
        store(y + first, n - first, aligned, values);                                              \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS_MAX)                                      \
    name##_backward(const T *y_gradient, const T *__restrict__ x, T *x_gradient, u64 n,            \
                    unsigned aligned)                                                              \
    {                                                                                              \
        u64 first = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * LANES;                          \
        if (first >= n) { return; }                                                                \
        float values[LANES], gradient[LANES], y, slope;                                            \
        load(x + first, n - first, aligned, values);                                               \
        load(y_gradient + first, n - first, aligned, gradient);                                    \
        _Pragma("unroll") for (int lane = 0; lane < LANES; ++lane)                                 \
        {                                                                                          \
            name(values[lane], &y, &slope);                                                        \
            gradient[lane] *= slope;                                                               \
        }                                                                                          \
        store(x_gradient + first, n - first, aligned, gradient);                                   \
    }

POINTWISE(gelu)
POINTWISE(relu_squared)

static __device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Left alone, the compiler aims at so many threads that a register does not fit.
extern "C" __global__ void __launch_bounds__(THREADS_MAX, 5) swiglu_forward(
    const T *__restrict__ x,  // (rows, 2 width): the gates of a row, then its values
    T *__restrict__ y,        // (rows, width)
    u64 rows,
    unsigned width,
    unsigned aligned)
{
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const T *gates = x + row * 2 * width;
        for (unsigned first = threadIdx.x * LANES; first < width; first += blockDim.x * LANES) {
            float gate[LANES], value[LANES];
            load(gates + first, width - first, aligned, gate);
            load(gates + width + first, width - first, aligned, value);
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
                value[lane] *= gate[lane] * sigmoid(gate[lane]);
            }
            store(y + row * width + first, width - first, aligned, value);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS_MAX) swiglu_backward(
    const T *__restrict__ y_gradient,  // (rows, width)
    const T *x,                        // (rows, 2 width)
    T *x_gradient,                     // (rows, 2 width), may be `x`
    u64 rows,
    unsigned width,
    unsigned aligned)
{
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        u64 base = row * 2 * width;
        for (unsigned first = threadIdx.x * LANES; first < width; first += blockDim.x * LANES) {
            unsigned left = width - first;
            float gate[LANES], value[LANES], gradient[LANES];
            load(x + base + first, left, aligned, gate);
            load(x + base + width + first, left, aligned, value);
            load(y_gradient + row * width + first, left, aligned, gradient);
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
                float s = sigmoid(gate[lane]);
                float open = gate[lane] * s;
                // s + g s (1 - s), the slope of the gate.
                gate[lane] = gradient[lane] * value[lane] * (s + open * (1.0f - s));
                value[lane] = gradient[lane] * open;
            }
            store(x_gradient + base + first, left, aligned, gate);
            store(x_gradient + base + width + first, left, aligned, value);
        }
    }
}
