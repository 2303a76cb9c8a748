// AdamW in place, all parameters in one launch; formula and constants are in mod.rs, the reference
// is in cpu.rs. One pack per thread: the update is memory bound (26 bytes or more for some 15
// operations), and neighbouring threads touch neighbouring packs, so every transaction is full.
// Parameters and moments are float32 whatever `T`, the gradient's kind, is.

union Copy {
    uint2 bits[LANES / 4];
    bf16 values[LANES];
};

// From a to b, as libtorch does: from the nearer end, so that a weight of one gives b itself.
static __device__ __forceinline__ float lerp(float a, float b, float weight)
{
    return weight < 0.5f ? a + weight * (b - a) : b - (b - a) * (1.0f - weight);
}

extern "C" __global__ void __launch_bounds__(256) adamw_update(
    float *__restrict__ parameters,     // (N)
    const T *__restrict__ gradient,     // (N)
    float *__restrict__ first_moment,   // (N)
    float *__restrict__ second_moment,  // (N)
    bf16 *__restrict__ copy,            // (N), the new parameters for the model; or null
    const float *__restrict__ clip,     // (1), what the gradient is multiplied by; or null
    u64 n,
    u64 decayed,                        // values, from the first, that are multiplied by `keep`
    unsigned aligned,
    float gradient_scale,
    float one_minus_beta1,
    float one_minus_beta2,
    float root_scale,
    float epsilon,
    float keep,
    float step_size)
{
    u64 first = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * LANES;
    if (first >= n) { return; }
    u64 left = n - first;
    float scale = clip ? gradient_scale * *clip : gradient_scale;

    float p[LANES], g[LANES], m[LANES], v[LANES];
    load_floats(parameters + first, left, aligned, p);
    load(gradient + first, left, aligned, g);
    load_floats(first_moment + first, left, aligned, m);
    load_floats(second_moment + first, left, aligned, v);
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) {
        float slope = scale * g[lane];
        m[lane] = lerp(m[lane], slope, one_minus_beta1);
        v[lane] = lerp(v[lane], slope * slope, one_minus_beta2);
        float root = sqrtf(v[lane]) * root_scale + epsilon;
        float kept = first + lane < decayed ? p[lane] * keep : p[lane];
        p[lane] = kept - step_size * (m[lane] / root);
    }
    store_floats(first_moment + first, left, aligned, m);
    store_floats(second_moment + first, left, aligned, v);
    store_floats(parameters + first, left, aligned, p);
    if (!copy) { return; }
    Copy pack;
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) { pack.values[lane] = to_bf16(p[lane]); }
    if (aligned && left >= LANES) {
#pragma unroll
        for (int part = 0; part < LANES / 4; ++part) {
            ((uint2 *)(copy + first))[part] = pack.bits[part];
        }
    } else {
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane) {
            if (lane < left) { copy[first + lane] = pack.values[lane]; }
        }
    }
}
