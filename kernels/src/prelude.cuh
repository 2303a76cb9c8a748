// Stands before the source of every kernel. `T` is the kind of activations, gradients and weights
// in memory: float32, or bfloat16 as its bits with -DBF16. Arithmetic is always float32. There is
// no #include, because a machine with NVRTC need not have CUDA's headers.

typedef unsigned long long u64;
typedef unsigned short bf16;
#ifdef BF16
typedef bf16 T;
#else
typedef float T;
#endif

// Values that a thread takes at once: one transaction of 16 bytes.
enum { LANES = 16 / sizeof(T), WARP = 32, WARPS_MAX = 32 };
#define ALL_LANES 0xffffffffu
#define MINUS_INFINITY __uint_as_float(0xff800000u)
#define NOT_A_NUMBER __uint_as_float(0x7fc00000u)

static __device__ __forceinline__ float to_float(float value) { return value; }

static __device__ __forceinline__ float to_float(bf16 bits)
{
    return __uint_as_float((unsigned)bits << 16);
}

// To the nearest; of two equally near, to the even one. What is not a number stays none. A GPU has
// an instruction for one and for two; the emulator has neither.
static __device__ __forceinline__ bf16 to_bf16(float value)
{
#ifdef __CUDA_ARCH__
    bf16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
#else
    unsigned bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) { return (bf16)((bits >> 16) | 0x40u); }
    return (bf16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
#endif
}

// Two neighbours, the first in the lower half.
static __device__ __forceinline__ unsigned to_bf16_pair(float first, float second)
{
#ifdef __CUDA_ARCH__
    unsigned bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(second), "f"(first));
    return bits;
#else
    return to_bf16(first) | (unsigned)to_bf16(second) << 16;
#endif
}

static __device__ __forceinline__ void assign(float *to, float value) { *to = value; }
static __device__ __forceinline__ void assign(bf16 *to, float value) { *to = to_bf16(value); }

// As it will be read again.
static __device__ __forceinline__ float rounded(float value)
{
    T kept;
    assign(&kept, value);
    return to_float(kept);
}

// e to the power of x by the instruction for powers of 2: 2 instructions for 8, and a relative error
// of up to 2e-7 + 6e-8 |x|, which is little where many powers of at most 1 are added up.
static __device__ __forceinline__ float quick_exp(float x)
{
#ifdef __CUDA_ARCH__
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * 1.44269504f));
    return power;
#else
    return expf(x);
#endif
}

union Pack {
    uint4 bits;
    unsigned words[4];
    T values[LANES];
};

// The next LANES values of `from`, which has `left`; 0 for those that are not there. `aligned`: a
// whole pack may be loaded at once.
static __device__ __forceinline__ void load(
    const T *from, u64 left, bool aligned, float values[LANES])
{
    if (aligned && left >= LANES) {
        Pack pack;
        pack.bits = *(const uint4 *)from;
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) { values[lane] = to_float(pack.values[lane]); }
    } else {
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            values[lane] = lane < left ? to_float(from[lane]) : 0.0f;
        }
    }
}

// The counterpart of `load`.
static __device__ __forceinline__ void store(
    T *to, u64 left, bool aligned, const float values[LANES])
{
    if (aligned && left >= LANES) {
        Pack pack;
#pragma unroll
        for (int word = 0; word < 4; ++word) {
#ifdef BF16
            pack.words[word] = to_bf16_pair(values[2 * word], values[2 * word + 1]);
#else
            pack.words[word] = __float_as_uint(values[word]);
#endif
        }
        *(uint4 *)to = pack.bits;
    } else {
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            if (lane < left) { assign(&to[lane], values[lane]); }
        }
    }
}

union Floats {
    uint4 bits[LANES / 4];
    float values[LANES];
};

// As `load` and `store`, of as many floats whatever `T` is.
static __device__ __forceinline__ void load_floats(
    const float *from, u64 left, bool aligned, float values[LANES])
{
    Floats pack;
    if (aligned && left >= LANES) {
#pragma unroll
        for (int part = 0; part < LANES / 4; ++part) {
            pack.bits[part] = ((const uint4 *)from)[part];
        }
    } else {
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            pack.values[lane] = lane < left ? from[lane] : 0.0f;
        }
    }
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) { values[lane] = pack.values[lane]; }
}

static __device__ __forceinline__ void store_floats(
    float *to, u64 left, bool aligned, const float values[LANES])
{
    Floats pack;
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) { pack.values[lane] = values[lane]; }
    if (aligned && left >= LANES) {
#pragma unroll
        for (int part = 0; part < LANES / 4; ++part) { ((uint4 *)to)[part] = pack.bits[part]; }
    } else {
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            if (lane < left) { to[lane] = pack.values[lane]; }
        }
    }
}

static __device__ __forceinline__ float warp_sum(float value)
{
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    }
    return value;
}

// The sum over the block, the same bits in every thread. All threads call it, and blocks are whole
// warps. `scratch` may be used again at once.
static __device__ __forceinline__ float block_sum(float value, float scratch[WARPS_MAX])
{
    value = warp_sum(value);
    if (threadIdx.x % WARP == 0) { scratch[threadIdx.x / WARP] = value; }
    __syncthreads();
    float total = 0.0f;
    for (unsigned warp = 0; warp < blockDim.x / WARP; ++warp) { total += scratch[warp]; }
    __syncthreads();
    return total;
}
