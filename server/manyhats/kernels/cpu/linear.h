/* Layers of their own: y = x weight^T + bias, for all slots of a site in one call. */

#include "dense.h"

#define FEW_OUTPUTS 32 /* layers of more outputs are computed as whole weights are */

static void linear_tiles(void *data) {
    Call *call = data;
    for (int64_t i; (i = fetch_next(&call->next)) < call->count;) call->kernels->linear(call, &call->tiles[i]);
}

/* Makes the tiles of the layers of few outputs, or of the others; `others`: how many tiles are not among them. */
static int linear_tiles_of(Call *call, int64_t rows, const int32_t *segments, int64_t segment_count,
                           const LinearSlot *slots, int64_t slot_count, int threads, int few, int64_t *others) {
    int64_t kept = 0;
    int code = make_tiles(call, rows, segments, segment_count, (const char *)slots, sizeof *slots, slot_count,
                          few ? threads : 1, few ? TILE : DENSE_TILE);
    if (code) return code;
    for (int64_t i = 0; i < call->count; i++) {
        int64_t width = ((const LinearSlot *)call->tiles[i].slot)->out;
        if (width > call->out) code = OUT_OF_RANGE;
        if ((width <= FEW_OUTPUTS) == few) call->tiles[kept++] = call->tiles[i];
    }
    *others = call->count - kept;
    call->count = kept;
    return code;
}

/* Estimated nanoseconds on one thread. */
static double linear_work(const Call *call, int64_t item) {
    double flops = 0, bytes = 0;
    for (int64_t i = 0; i < call->count; i++) {
        double width = (double)((const LinearSlot *)call->tiles[i].slot)->out, own = (double)call->tiles[i].rows;
        flops += 2 * own * width * (double)call->in;
        bytes += (double)item * (own + width) * (double)call->in;
    }
    return flops / FLOPS_A_NS + bytes / BYTES_A_NS;
}

static int linear(const Rows *const *kernels, int64_t item, int32_t variant, const void *x, void *y, int64_t rows,
                  int64_t in, int64_t out, int64_t x_stride, int64_t y_stride, const int32_t *segments,
                  int64_t segment_count, const LinearSlot *slots, int64_t slot_count, int32_t threads) {
    if (variant < 0 || variant >= VARIANTS || !kernels[variant]) return NO_SUCH_VARIANT;
    if (!parallel || threads < 1) threads = 1;
    int code = OK;
    int64_t others = 1;
    for (int few = 1; few >= 0 && others && !code; few--) {
        Call call = {.kernels = kernels[variant], .x = x, .y = y, .in = in, .out = out, .x_stride = x_stride,
                     .y_stride = y_stride};
        code = linear_tiles_of(&call, rows, segments, segment_count, slots, slot_count, threads, few, &others);
        double work = code ? 0 : linear_work(&call, item);
        if (!code && !few) code = dense(&call, item, work, threads);
        else if (!code && call.count) run(&call, linear_tiles, call.count, work < WORTH_THREADS ? 1 : threads);
        free(call.tiles);
    }
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
