/* Gains and offsets: y = y * gain + offset, for all slots of a site in one call. */

#include "threads.h"

static void scaled_tiles(void *data) {
    Call *call = data;
    Turn turn = first_turn();
    for (const Tile *tile; (tile = next_tile(call, &turn));) call->kernels->scale_add(call, tile);
}

static int scale_add(const Rows *const *kernels, int64_t item, int32_t variant, void *y, int64_t rows, int64_t out,
                     int64_t y_stride, const int32_t *segments, int64_t segment_count, const ScaleAddSlot *slots,
                     int64_t slot_count, int32_t threads) {
    if (variant < 0 || variant >= VARIANTS || !kernels[variant]) return NO_SUCH_VARIANT;
    Call call = {.kernels = kernels[variant], .y = y, .out = out, .y_stride = y_stride};
    if (!parallel || threads < 1) threads = 1;
    int code = make_tiles(&call, rows, segments, segment_count, (const char *)slots, sizeof *slots, slot_count,
                          threads, TILE);
    if (code) return code;
    int64_t total = 0;
    for (int64_t i = 0; i < call.count; i++) total += call.tiles[i].rows;
    if ((double)(2 * item * total * out) / BYTES_A_NS < WORTH_THREADS) threads = 1;
    share_tiles(&call, rows, threads);
    run(&call, scaled_tiles, call.count, threads);
    free(call.tiles);
    return OK;
}

#define SCALE_ADD(name, kernels, item)                                                                                 \
    EXPORT int32_t name(int32_t variant, void *y, int64_t rows, int64_t out, int64_t y_stride,                        \
                        const int32_t *segments, int64_t segment_count, const ScaleAddSlot *slots,                    \
                        int64_t slot_count, int32_t threads) {                                                         \
        return scale_add(kernels, item, variant, y, rows, out, y_stride, segments, segment_count, slots, slot_count,   \
                         threads);                                                                                     \
    }

/* y (rows, out) = y * gain + offset */
SCALE_ADD(manyhats_scale_add_f32, kernels_f32, 4)
SCALE_ADD(manyhats_scale_add_bf16, kernels_bf16, 2)
