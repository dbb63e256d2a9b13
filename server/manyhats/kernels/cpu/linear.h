/* Layers of their own: y = x weight^T + bias, for all slots of a site in one call. */

#include "threads.h"

static void linear_tiles(void *data) {
    Call *call = data;
    for (int64_t i; (i = fetch_next(&call->next)) < call->count;) call->kernels->linear(call, &call->tiles[i]);
}

static int linear(const Rows *const *kernels, int64_t item, int32_t variant, const void *x, void *y, int64_t rows,
                  int64_t in, int64_t out, int64_t x_stride, int64_t y_stride, const int32_t *segments,
                  int64_t segment_count, const LinearSlot *slots, int64_t slot_count, int32_t threads) {
    if (variant < 0 || variant >= VARIANTS || !kernels[variant]) return NO_SUCH_VARIANT;
    Call call = {.kernels = kernels[variant], .x = x, .y = y, .in = in, .x_stride = x_stride, .y_stride = y_stride};
    if (!parallel || threads < 1) threads = 1;
    int code = make_tiles(&call, rows, segments, segment_count, (const char *)slots, sizeof *slots, slot_count,
                          threads, TILE);
    if (code) return code;
    double flops = 0, bytes = 0;
    for (int64_t i = 0; i < call.count && !code; i++) {
        double width = (double)((const LinearSlot *)call.tiles[i].slot)->out, own = (double)call.tiles[i].rows;
        if ((int64_t)width > out) code = OUT_OF_RANGE;
        flops += 2 * own * width * (double)in;
        bytes += (double)item * (own + width) * (double)in;
    }
    if (flops / FLOPS_A_NS + bytes / BYTES_A_NS < WORTH_THREADS) threads = 1;
    if (!code) run(&call, linear_tiles, call.count, threads);
    free(call.tiles);
    return code;
}

#define LINEAR(name, kernels, item)                                                                                    \
    EXPORT int32_t name(int32_t variant, const void *x, void *y, int64_t rows, int64_t in, int64_t out,               \
                        int64_t x_stride, int64_t y_stride, const int32_t *segments, int64_t segment_count,           \
                        const LinearSlot *slots, int64_t slot_count, int32_t threads) {                                \
        return linear(kernels, item, variant, x, y, rows, in, out, x_stride, y_stride, segments, segment_count, slots, \
                      slot_count, threads);                                                                            \
    }

/* y (rows, out)[:, :slot.out] = x (rows, in) weight^T + bias */
LINEAR(manyhats_linear_f32, kernels_f32, 4)
LINEAR(manyhats_linear_bf16, kernels_bf16, 2)
