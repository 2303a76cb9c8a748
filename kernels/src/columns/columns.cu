// Sums of columns: the second half of every gradient of a weight, whose first half is one partial
// sum per block. 32 neighbouring columns per block, so that loads are full, and 32 threads to each,
// because there are a thousand partial sums and few columns: additions must not wait for each
// other. Their order is always the same.

enum { COLUMNS = 32, PARTS = 32 };

extern "C" __global__ void __launch_bounds__(COLUMNS *PARTS) column_sums(
    const float *__restrict__ partial,  // (rows, width)
    T *__restrict__ sums,               // (width)
    unsigned rows,
    unsigned width)
{
    __shared__ float shared[PARTS][COLUMNS];
    unsigned lane = threadIdx.x % COLUMNS;
    unsigned part = threadIdx.x / COLUMNS;
    unsigned column = blockIdx.x * COLUMNS + lane;
    float sum = 0.0f;
    if (column < width) {
        for (unsigned row = part; row < rows; row += PARTS) {
            sum += partial[(u64)row * width + column];
        }
    }
    shared[part][lane] = sum;
    __syncthreads();
    if (part == 0 && column < width) {
        float total = 0.0f;
        for (int other = 0; other < PARTS; ++other) { total += shared[other][lane]; }
        assign(&sums[column], total);
    }
}
