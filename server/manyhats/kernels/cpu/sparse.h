/* Sparse differences of weights: y += x D^T, for all slots of a site in one call. */

#include "threads.h"

static void sparse_tiles(void *data) {
    Call *call = data;
    float *scratch = call->low + fetch_next(&call->workers) * call->low_size;
    Turn turn = first_turn();
    for (const Tile *tile; (tile = next_tile(call, &turn));) call->kernels->sparse(call, tile, scratch);
}

static int sparse_add(const Rows *const *kernels, int64_t item, int32_t variant, const void *x, void *y, int64_t rows,
                      int64_t in, int64_t out, int64_t x_stride, int64_t y_stride, const int32_t *segments,
                      int64_t segment_count, const SparseSlot *slots, int64_t slot_count, int32_t threads) {
    if (variant < 0 || variant >= VARIANTS || !kernels[variant]) return NO_SUCH_VARIANT;
    Call call = {.kernels = kernels[variant], .x = x, .y = y, .in = in, .out = out, .x_stride = x_stride,
                 .y_stride = y_stride};
    if (!parallel || threads < 1) threads = 1;
    int code = make_tiles(&call, rows, segments, segment_count, (const char *)slots, sizeof *slots, slot_count,
                          threads, TILE);
    if (code) return code;
    double ns = 0;
    for (int64_t i = 0; i < call.count && !code; i++) {
        const SparseSlot *slot = call.tiles[i].slot;
        if (slot->count && (slot->indices[0] < 0 || slot->indices[slot->count - 1] >= in * out)) code = OUT_OF_RANGE;
        ns += (double)(slot->count + in + out) * (double)call.tiles[i].rows / SPARSE_ROWS;
        ns += (double)(item * call.tiles[i].rows * (in + 2 * out)) / BYTES_A_NS;
    }
    if (ns < WORTH_THREADS || call.count < 2) threads = 1;
    call.low_size = round_up((in + out) * SPARSE_ROWS, 16);
    call.low = code ? 0 : aligned_alloc(64, (size_t)(threads * call.low_size) * sizeof(float));
    if (!code && !call.low) code = NO_MEMORY;
    if (!code) {
        share_tiles(&call, rows, threads);
        run(&call, sparse_tiles, call.count, threads);
    }
    free(call.low);
    free(call.tiles);
    return code;
}

#define SPARSE_ADD(name, kernels, item)                                                                                \
    EXPORT int32_t name(int32_t variant, const void *x, void *y, int64_t rows, int64_t in, int64_t out,               \
                        int64_t x_stride, int64_t y_stride, const int32_t *segments, int64_t segment_count,           \
                        const SparseSlot *slots, int64_t slot_count, int32_t threads) {                                \
        return sparse_add(kernels, item, variant, x, y, rows, in, out, x_stride, y_stride, segments, segment_count,    \
                          slots, slot_count, threads);                                                                 \
    }

/* y (rows, out) += x (rows, in) D^T */
SPARSE_ADD(manyhats_sparse_add_f32, kernels_f32, 4)
SPARSE_ADD(manyhats_sparse_add_bf16, kernels_bf16, 2)
