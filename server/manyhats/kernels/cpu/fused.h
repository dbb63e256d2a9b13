/* Several operations on a row in one call, the same for all slots: a sum and its norm, and the weights of a fusion. */

#include "threads.h"

static void added_tiles(void *data) {
    Call *call = data;
    float *scratch = call->low + fetch_next(&call->workers) * call->low_size;
    Turn turn = first_turn();
    for (const Tile *tile; (tile = next_tile(call, &turn));) call->kernels->add_norm(call, tile, scratch);
}

static void weighed_tiles(void *data) {
    Call *call = data;
    float *scratch = call->low + fetch_next(&call->workers) * call->low_size;
    Turn turn = first_turn();
    for (const Tile *tile; (tile = next_tile(call, &turn));) call->kernels->weigh(call, tile, scratch);
}

/* Computes the segments' rows. `size`: numbers of a thread's scratch; `work`: estimated nanoseconds a row. */
static int fused(Call *call, void (*tiles)(void *), int64_t rows, const int32_t *segments, int64_t segment_count,
                 int64_t size, double work, int threads) {
    static const int32_t present = 1; /* of any slot */
    if (!parallel || threads < 1) threads = 1;
    int code = make_tiles(call, rows, segments, segment_count, (const char *)&present, 0, INT64_MAX, threads, TILE);
    if (code) return code;
    double total = 0;
    for (int64_t i = 0; i < call->count; i++) total += work * (double)call->tiles[i].rows;
    if (total < WORTH_THREADS) threads = 1;
    call->low_size = round_up(size, 16);
    call->low = aligned_alloc(64, (size_t)(threads * call->low_size) * sizeof(float));
    if (!call->low) code = NO_MEMORY;
    else {
        share_tiles(call, rows, threads);
        run(call, tiles, call->count, threads);
    }
    free(call->low);
    free(call->tiles);
    return code;
}

static int add_norm(const Rows *const *kernels, int64_t item, int32_t variant, const void *f, const void *x, void *y,
                    int64_t rows, int64_t out, int64_t f_stride, int64_t x_stride, int64_t y_stride,
                    const int32_t *segments, int64_t segment_count, const void *gain, const void *offset, float epsilon,
                    int32_t threads) {
    if (variant < 0 || variant >= VARIANTS || !kernels[variant]) return NO_SUCH_VARIANT;
    Call call = {.kernels = kernels[variant], .f = f, .x = x, .y = y, .out = out, .f_stride = f_stride,
                 .x_stride = x_stride, .y_stride = y_stride, .gain = gain, .offset = offset, .epsilon = epsilon};
    return fused(&call, added_tiles, rows, segments, segment_count, out, (double)(3 * item * out) / BYTES_A_NS, threads);
}

static int weigh(const Rows *const *kernels, int32_t variant, const void *x, void *y, int64_t rows, int64_t size,
                 int64_t members, int64_t x_stride, int64_t y_stride, const int32_t *segments, int64_t segment_count,
                 int32_t activation, int32_t threads) {
    if (variant < 0 || variant >= VARIANTS || !kernels[variant]) return NO_SUCH_VARIANT;
    Call call = {.kernels = kernels[variant], .x = x, .y = y, .in = size, .members = members, .x_stride = x_stride,
                 .y_stride = y_stride, .activation = activation};
    return fused(&call, weighed_tiles, rows, segments, segment_count, 2 * size + members, 2.0 * (double)size, threads);
}

#define ADD_NORM(name, kernels, item)                                                                                  \
    EXPORT int32_t name(int32_t variant, const void *f, const void *x, void *y, int64_t rows, int64_t out,            \
                        int64_t f_stride, int64_t x_stride, int64_t y_stride, const int32_t *segments,                \
                        int64_t segment_count, const void *gain, const void *offset, float epsilon,                   \
                        int32_t threads) {                                                                             \
        return add_norm(kernels, item, variant, f, x, y, rows, out, f_stride, x_stride, y_stride, segments,            \
                        segment_count, gain, offset, epsilon, threads);                                                \
    }

#define WEIGH(name, kernels)                                                                                           \
    EXPORT int32_t name(int32_t variant, const void *x, void *y, int64_t rows, int64_t size, int64_t members,         \
                        int64_t x_stride, int64_t y_stride, const int32_t *segments, int64_t segment_count,           \
                        int32_t activation, int32_t threads) {                                                         \
        return weigh(kernels, variant, x, y, rows, size, members, x_stride, y_stride, segments, segment_count,         \
                     activation, threads);                                                                             \
    }

/* y (rows, out) = norm(f + x) gain + offset */
ADD_NORM(manyhats_add_norm_f32, kernels_f32, 4)
ADD_NORM(manyhats_add_norm_bf16, kernels_bf16, 2)
/* y (rows, size + members) from x (rows, 2 size + members); see NAME(weigh) */
WEIGH(manyhats_weigh_f32, kernels_f32)
WEIGH(manyhats_weigh_bf16, kernels_bf16)
