// AdamW in place; formula and constants are in mod.rs, the reference is in cpu.rs.
//
// One thread per value: the update is memory bound (7 floats moved, some 15 operations), and
// neighbouring threads touch neighbouring floats, so every transaction is full.

extern "C" __global__ void adamw_update(
    float *__restrict__ parameters,      // (N)
    const float *__restrict__ gradient,  // (N)
    float *__restrict__ first_moment,    // (N)
    float *__restrict__ second_moment,   // (N)
    unsigned long long n,
    float gradient_scale,
    float one_minus_beta1,
    float one_minus_beta2,
    float root_scale,
    float epsilon,
    float keep,
    float step_size)
{
    // 64 bits: a model may have more values than an int can count.
    unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) { return; }

    float g = gradient_scale * gradient[i];
    float m = first_moment[i];
    float v = second_moment[i];
    m += one_minus_beta1 * (g - m);
    v += one_minus_beta2 * (g * g - v);
    float root = sqrtf(v) * root_scale + epsilon;
    first_moment[i] = m;
    second_moment[i] = v;
    parameters[i] = parameters[i] * keep - step_size * (m / root);
}
