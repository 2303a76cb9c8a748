// Two kernels that are right, and others that a GPU might forgive. 64 threads per block.

extern "C" __global__ void reverses(float *to, unsigned n)
{
    __shared__ float shared[64];
    unsigned base = blockIdx.x * blockDim.x;
    for (int time = 0; time < 3; ++time) {
        shared[threadIdx.x] = (float)(base + threadIdx.x);
        __syncthreads();
        to[base + threadIdx.x] = shared[63 - threadIdx.x];
        __syncthreads();
    }
}

extern "C" __global__ void sums(float *to, unsigned n)
{
    __shared__ float scratch[WARPS_MAX];
    to[blockIdx.x * blockDim.x + threadIdx.x] = block_sum((float)threadIdx.x, scratch);
}

extern "C" __global__ void lacks_a_barrier(float *to, unsigned n)
{
    __shared__ float shared[64];
    unsigned base = blockIdx.x * blockDim.x;
    shared[threadIdx.x] = (float)(base + threadIdx.x);
    to[base + threadIdx.x] = shared[63 - threadIdx.x];
}

extern "C" __global__ void lacks_a_second_barrier(float *to, unsigned n)
{
    __shared__ float shared[64];
    unsigned base = blockIdx.x * blockDim.x;
    float total = 0.0f;
    for (int time = 0; time < 4; ++time) {
        shared[threadIdx.x] = (float)(base + threadIdx.x + time);
        __syncthreads();
        total += shared[63 - threadIdx.x] - time;
    }
    to[base + threadIdx.x] = total / 4.0f;
}

extern "C" __global__ void ends_early(float *to, unsigned n)
{
    if (threadIdx.x == 5) { return; }
    __syncthreads();
    to[threadIdx.x] = 1.0f;
}

extern "C" __global__ void ends_a_lane_early(float *to, unsigned n)
{
    if (threadIdx.x == 5) { return; }
    to[threadIdx.x] = __shfl_xor_sync(ALL_LANES, 1.0f, 1);
}

extern "C" __global__ void waits_apart(float *to, unsigned n)
{
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    to[threadIdx.x] = 1.0f;
}

extern "C" __global__ void shuffles_apart(float *to, unsigned n)
{
    if (threadIdx.x % 2) {
        to[threadIdx.x] = __shfl_xor_sync(ALL_LANES, 1.0f, 1);
    } else {
        to[threadIdx.x] = __shfl_xor_sync(ALL_LANES, 2.0f, 1);
    }
}

extern "C" __global__ void writes_beside(float *to, unsigned n)
{
    if (threadIdx.x == 0) { to[n] = 1.0f; }
}
