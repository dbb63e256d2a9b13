/* Whole weights for every slot of a site in one call: the backbone's with a mask over it, or the slot's own. */

#ifndef MANYHATS_DENSE_H
#define MANYHATS_DENSE_H

#include "threads.h"

#define DENSE_TILE DENSE_ROWS
#define CHUNK 32            /* outputs of the smallest piece of work */
#define CHUNK_BYTES 524288 /* maximum bytes of a piece's weight, so that it stays in the L2 cache for all tiles */

static void widened_tiles(void *data) {
    Call *call = data;
    for (int64_t i; (i = fetch_next(&call->next)) < call->count;) call->kernels->widen(call, &call->tiles[i]);
}

/* All tiles for some outputs, and then for the next, so that the backbone's weight is read once. */
static void dense_pieces(void *data) {
    Call *call = data;
    int64_t i = fetch_next(&call->next);
    if (i >= call->count * call->parts) return;
    float *scratch = call->low + fetch_next(&call->workers) * call->low_size;
    for (; i < call->count * call->parts; i = fetch_next(&call->next)) {
        int64_t first = i / call->count * call->low_stride, last = first + call->low_stride;
        const Tile *tile = &call->tiles[i % call->count];
        call->kernels->dense(call, tile, first, last < call->out ? last : call->out, scratch);
    }
}

/* Computes the tiles of a call. `work`: estimated nanoseconds on one thread. */
static int dense(Call *call, int64_t item, double work, int threads) {
    if (!call->count || !call->out) return OK;
    if (work < WORTH_THREADS) threads = 1;
    const int packed = call->kernels->packed, wide = packed || item != 4 || call->in % 32 != 0;
    const int64_t width = round_up(call->in, 32);
    int64_t chunks = (call->out + CHUNK - 1) / CHUNK, chunk = chunks * call->count / (4 * threads);
    int64_t most = CHUNK_BYTES / (CHUNK * item * width);
    chunk = chunk < most ? chunk : most;
    if (chunk < 1) chunk = 1;
    call->low_stride = chunk * CHUNK; /* outputs of a piece */
    call->parts = (chunks + chunk - 1) / chunk;
    call->low_size = packed ? 16 * width + 1536 : DENSE_OUTPUTS * (DENSE_ROWS + DENSE_STRIDE); /* a thread's scratch */
    call->low = aligned_alloc(64, (size_t)(threads * call->low_size) * sizeof(float));
    if (wide) {
        int64_t place = 0;
        for (int64_t i = 0; i < call->count; i++) {
            call->tiles[i].place = place;
            place += round_up(call->tiles[i].rows, 16);
        }
        call->wide_stride = packed ? width : width + 16;
        call->wide = aligned_alloc(64, (size_t)(place * call->wide_stride * (packed ? 2 : 4)));
    }
    int code = call->low && (call->wide || !wide) ? OK : NO_MEMORY;
    if (code == OK && wide) run(call, widened_tiles, call->count, threads);
    if (code == OK) run(call, dense_pieces, call->count * call->parts, threads);
    free(call->wide);
    free(call->low);
    return code;
}

static int masked_linear(const Rows *const *kernels, int64_t item, int32_t variant, const void *x, void *y,
                         int64_t rows, int64_t in, int64_t out, int64_t x_stride, int64_t y_stride,
                         const int32_t *segments, int64_t segment_count, const MaskSlot *slots, int64_t slot_count,
                         const void *base, const void *bias, int32_t threads) {
    if (variant < 0 || variant >= VARIANTS || !kernels[variant]) return NO_SUCH_VARIANT;
    Call call = {.kernels = kernels[variant], .x = x, .y = y, .in = in, .out = out, .x_stride = x_stride,
                 .y_stride = y_stride, .base = base, .base_bias = bias};
    if (!parallel || threads < 1) threads = 1;
    int code = make_tiles(&call, rows, segments, segment_count, (const char *)slots, sizeof *slots, slot_count, 1,
                          DENSE_TILE);
    if (code) return code;
    double work = 0;
    for (int64_t i = 0; i < call.count; i++)
        work += 2.0 * (double)(call.tiles[i].rows * in * out) / FLOPS_A_NS + (double)(item * in * out) / BYTES_A_NS;
    code = dense(&call, item, work, threads);
    free(call.tiles);
    return code;
}

#define MASKED_LINEAR(name, kernels, item)                                                                             \
    EXPORT int32_t name(int32_t variant, const void *x, void *y, int64_t rows, int64_t in, int64_t out,               \
                        int64_t x_stride, int64_t y_stride, const int32_t *segments, int64_t segment_count,           \
                        const MaskSlot *slots, int64_t slot_count, const void *base, const void *bias,                \
                        int32_t threads) {                                                                             \
        return masked_linear(kernels, item, variant, x, y, rows, in, out, x_stride, y_stride, segments, segment_count, \
                             slots, slot_count, base, bias, threads);                                                  \
    }

/* y (rows, out) = x (rows, in) (base (out, in) * bits)^T + bias */
MASKED_LINEAR(manyhats_masked_linear_f32, kernels_f32, 4)
MASKED_LINEAR(manyhats_masked_linear_bf16, kernels_bf16, 2)

#endif
