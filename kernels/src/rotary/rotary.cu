// Rotary positions of queries and keys, with the normalisation of each head before; formulas in
// mod.rs, the reference in cpu.rs. A group of `group` neighbouring lanes takes a head; its lanes
// take the same packs of every head, at most OWNED. Pairs that turn together are neighbours, so a
// pack holds whole pairs.

enum { OWNED = 2, THREADS = 256, HEAD_MAX = WARP * OWNED * LANES };

// The sum over the lanes of a group. All lanes of the warp call it.
static __device__ __forceinline__ float group_sum(float value, unsigned group)
{
    for (unsigned distance = group / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    }
    return value;
}

// Turns the pairs of a pack by the angles whose cosines and sines are at `rotation`, backwards if
// `sign` is -1.
static __device__ __forceinline__ void turn(
    float values[LANES], const float *rotation, unsigned left, bool aligned, float sign)
{
    float angles[LANES];
    load_floats(rotation, left, aligned, angles);
#pragma unroll
    for (int lane = 0; lane < LANES; lane += 2) {
        float cosine = angles[lane], sine = sign * angles[lane + 1];
        float a = values[lane], b = values[lane + 1];
        values[lane] = a * cosine - b * sine;
        values[lane + 1] = a * sine + b * cosine;
    }
}

// Which head a group takes, and where it is.
struct Place {
    bool there;
    bool key;
    unsigned index;  // Among the heads of all rows.
    u64 x;           // Its first value among those with a stride.
    u64 y;           // Its first value among those without.
    u64 rotation;    // Its row of cosines and sines.
};

static __device__ __forceinline__ Place place_of(
    unsigned index, unsigned rows, unsigned heads, unsigned queries, unsigned width,
    unsigned stride, unsigned positions)
{
    unsigned row = index / heads;
    unsigned head = index - row * heads;
    Place place;
    place.there = row < rows;
    place.key = head >= queries;
    place.index = index;
    place.x = (u64)row * stride + head * width;
    place.y = (u64)index * width;
    place.rotation = (u64)(row % positions) * width;
    return place;
}

#define EACH_OWNED_PACK(k, first)                                                                  \
    _Pragma("unroll") for (int k = 0; k < OWNED; ++k)                                              \
        if (unsigned first = (lane_in_group + k * group) * LANES; place.there && first < width)

extern "C" __global__ void __launch_bounds__(THREADS) rotary_forward(
    const T *__restrict__ x,             // (rows, stride), of which the first heads * width count
    const T *__restrict__ query_weight,  // (width), or null
    const T *__restrict__ key_weight,    // (width), or null
    const float *__restrict__ rotation,  // (positions, width): cosine, sine, cosine, ...
    T *__restrict__ y,                   // (rows, heads, width)
    float *__restrict__ scales,          // (rows, heads), or null: heads are not normalised
    unsigned rows,
    unsigned heads,
    unsigned queries,                    // of the heads, from the first; the others are keys
    unsigned width,
    unsigned stride,
    unsigned positions,
    unsigned group,
    unsigned aligned,
    float epsilon)
{
    unsigned lane_in_group = threadIdx.x % group;
    unsigned groups = gridDim.x * (blockDim.x / group);
    unsigned first_index = blockIdx.x * (blockDim.x / group) + threadIdx.x / group;
    unsigned warp_index = first_index - (threadIdx.x % WARP) / group;
    // Warps stay together, because shuffles need all lanes.
    for (unsigned start = warp_index; start < rows * heads; start += groups) {
        Place place = place_of(start + first_index - warp_index, rows, heads, queries, width,
                               stride, positions);
        float values[OWNED][LANES];
        float total = 0.0f;
        EACH_OWNED_PACK(k, first) {
            load(x + place.x + first, width - first, aligned, values[k]);
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) { total += values[k][lane] * values[k][lane]; }
        }
        float scale = 1.0f;
        if (scales) {
            scale = 1.0f / sqrtf(group_sum(total, group) / width + epsilon);
            if (place.there && lane_in_group == 0) { scales[place.index] = scale; }
        }
        const T *weight = place.key ? key_weight : query_weight;
        EACH_OWNED_PACK(k, first) {
            unsigned left = width - first;
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) { values[k][lane] *= scale; }
            if (weight) {
                float factor[LANES];
                load(weight + first, left, aligned, factor);
#pragma unroll
                for (int lane = 0; lane < LANES; ++lane) { values[k][lane] *= factor[lane]; }
            }
            turn(values[k], rotation + place.rotation + first, left, aligned, 1.0f);
            store(y + place.y + first, left, aligned, values[k]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) rotary_backward(
    const T *__restrict__ y_gradient,    // (rows, heads, width)
    const T *__restrict__ x,             // (rows, stride); null: heads are not normalised
    const T *__restrict__ query_weight,  // (width), or null
    const T *__restrict__ key_weight,    // (width), or null
    const float *__restrict__ rotation,  // (positions, width)
    const float *__restrict__ scales,    // (rows, heads), or null with x
    T *__restrict__ x_gradient,          // (rows, stride), the first heads * width of each
    float *__restrict__ query_sums,      // (blocks, width), or null: no gradients of weights
    float *__restrict__ key_sums,        // (blocks, width)
    unsigned rows,
    unsigned heads,
    unsigned queries,
    unsigned width,
    unsigned stride,
    unsigned positions,
    unsigned group,
    unsigned aligned)
{
    __shared__ float sums[2][HEAD_MAX];
    float query_sum[OWNED][LANES] = {}, key_sum[OWNED][LANES] = {};
    unsigned lane_in_group = threadIdx.x % group;
    unsigned groups = gridDim.x * (blockDim.x / group);
    unsigned first_index = blockIdx.x * (blockDim.x / group) + threadIdx.x / group;
    unsigned warp_index = first_index - (threadIdx.x % WARP) / group;
    for (unsigned start = warp_index; start < rows * heads; start += groups) {
        Place place = place_of(start + first_index - warp_index, rows, heads, queries, width,
                               stride, positions);
        const T *weight = place.key ? key_weight : query_weight;
        float scale = scales && place.there ? scales[place.index] : 1.0f;
        float slope[OWNED][LANES], normed[OWNED][LANES];
        float products = 0.0f;
        EACH_OWNED_PACK(k, first) {
            unsigned left = width - first;
            load(y_gradient + place.y + first, left, aligned, slope[k]);
            turn(slope[k], rotation + place.rotation + first, left, aligned, -1.0f);
            if (!scales) { continue; }
            load(x + place.x + first, left, aligned, normed[k]);
            float factor[LANES];
            if (weight) { load(weight + first, left, aligned, factor); }
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
                normed[k][lane] *= scale;
                float share = slope[k][lane] * normed[k][lane];
                query_sum[k][lane] += place.key ? 0.0f : share;
                key_sum[k][lane] += place.key ? share : 0.0f;
                if (weight) { slope[k][lane] *= factor[lane]; }
                products += slope[k][lane] * normed[k][lane];
            }
        }
        if (scales) { products = group_sum(products, group) / width; }
        EACH_OWNED_PACK(k, first) {
            if (scales) {
#pragma unroll
                for (int lane = 0; lane < LANES; ++lane) {
                    slope[k][lane] = (slope[k][lane] - normed[k][lane] * products) * scale;
                }
            }
            store(x_gradient + place.x + first, width - first, aligned, slope[k]);
        }
    }
    if (!query_sums) { return; }
    // One group after the other, so that the order of the additions is always the same.
    for (unsigned turn_of = 0; turn_of < blockDim.x / group; ++turn_of) {
        if (threadIdx.x / group == turn_of) {
#pragma unroll
            for (int k = 0; k < OWNED; ++k) {
#pragma unroll
                for (int lane = 0; lane < LANES; ++lane) {
                    unsigned place = (lane_in_group + k * group) * LANES + lane;
                    if (place >= width) { continue; }
                    sums[0][place] = query_sum[k][lane] + (turn_of ? sums[0][place] : 0.0f);
                    sums[1][place] = key_sum[k][lane] + (turn_of ? sums[1][place] : 0.0f);
                }
            }
        }
        __syncthreads();
    }
    for (unsigned place = threadIdx.x; place < width; place += blockDim.x) {
        query_sums[(u64)blockIdx.x * width + place] = sums[0][place];
        key_sums[(u64)blockIdx.x * width + place] = sums[1][place];
    }
}
