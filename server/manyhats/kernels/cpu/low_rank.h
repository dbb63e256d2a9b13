/* Low-rank pairs: y += scale * (act(x down^T + bias) up + bias), for all slots of a site in one call. */

#include "threads.h"

#define RANK_PIECE 8
#define COLUMN_PIECE 128
#define MANY_ROWS 8

/* Prefetches a matrix that is used next into the L2 cache. Not where few rows of float32 share it: reading it then takes
   all of the memory's bandwidth anyway, and this would only come on top. */
static void prefetch(const Call *call, const Tile *tile, const void *matrix, int64_t size) {
    size *= call->item;
    if (size > L1_CACHE || (call->item == 4 && tile->rows < MANY_ROWS)) return;
    for (int64_t i = 0; i < size; i += 64) __builtin_prefetch((const char *)matrix + i, 0, 2);
}

static void whole_tiles(void *data) {
    Call *call = data;
    Turn turn = first_turn();
    const Tile *tile = next_tile(call, &turn);
    if (!tile) return;
    float *low = call->low + fetch_next(&call->workers) * call->low_size;
    const LowRankSlot *last = 0;
    for (; tile; tile = next_tile(call, &turn)) {
        const LowRankSlot *slot = tile->slot, *next = tile + 1 < call->tiles + call->count ? tile[1].slot : slot;
        if (slot != last) prefetch(call, tile, slot->up, slot->rank * call->out);
        call->kernels->down(call, tile, 0, slot->rank, low);
        if (next != slot) prefetch(call, tile, next->down, next->rank * call->in);
        call->kernels->up(call, tile, 0, call->out, low);
        last = slot;
    }
}

/* With few tiles, the threads divide the ranks of each tile, and then its columns. */
static void rank_pieces(void *data) {
    Call *call = data;
    for (int64_t i; (i = fetch_next(&call->next)) < call->count * call->parts;) {
        int64_t tile = i / call->parts, first = i % call->parts * RANK_PIECE;
        int64_t rank = ((const LowRankSlot *)call->tiles[tile].slot)->rank;
        if (first >= rank) continue;
        call->kernels->down(call, &call->tiles[tile], first, first + RANK_PIECE < rank ? first + RANK_PIECE : rank,
                            call->low + tile * call->low_size);
    }
}

static void column_pieces(void *data) {
    Call *call = data;
    for (int64_t i; (i = fetch_next(&call->next)) < call->count * call->parts;) {
        int64_t tile = i / call->parts, first = i % call->parts * COLUMN_PIECE;
        int64_t last = first + COLUMN_PIECE < call->out ? first + COLUMN_PIECE : call->out;
        call->kernels->up(call, &call->tiles[tile], first, last, call->low + tile * call->low_size);
    }
}

static int low_rank(const Rows *const *kernels, int64_t item, int32_t variant, const void *x, void *y, int64_t rows,
                    int64_t in, int64_t out, int64_t x_stride, int64_t y_stride, const int32_t *segments,
                    int64_t segment_count, const LowRankSlot *slots, int64_t slot_count, const void *row_scale,
                    int64_t row_scale_stride, int32_t threads) {
    if (variant < 0 || variant >= VARIANTS || !kernels[variant]) return NO_SUCH_VARIANT;
    Call call = {.kernels = kernels[variant], .x = x, .y = y, .item = item, .row_scale = row_scale, .in = in, .out = out,
                 .x_stride = x_stride, .y_stride = y_stride, .row_scale_stride = row_scale_stride};
    if (!parallel || threads < 1) threads = 1;
    int code = make_tiles(&call, rows, segments, segment_count, (const char *)slots, sizeof *slots, slot_count,
                          threads, TILE);
    if (code) return code;

    int64_t most_rank = 0, most_rows = 0, kept = 0;
    double flops = 0, bytes = 0;
    const void *last = 0;
    for (int64_t i = 0; i < call.count; i++) {
        Tile tile = call.tiles[i];
        int64_t rank = ((const LowRankSlot *)tile.slot)->rank;
        if (rank == 0 && !((const LowRankSlot *)tile.slot)->up_bias) continue;
        call.tiles[kept++] = tile;
        most_rank = rank > most_rank ? rank : most_rank;
        most_rows = tile.rows > most_rows ? tile.rows : most_rows;
        flops += 2.0 * (double)tile.rows * (double)rank * (double)(in + out);
        bytes += (double)(item * tile.rows * (in + 2 * out));
        if (tile.slot != last) bytes += (double)(item * rank * (in + out));
        last = tile.slot;
    }
    call.count = kept;
    if (!kept) {
        free(call.tiles);
        return OK;
    }
    if (flops / FLOPS_A_NS + bytes / BYTES_A_NS < WORTH_THREADS) threads = 1;
    /* whole cache lines, so that no two threads write to the same one; and no power of two, so that rows do not map to
       the same cache sets */
    call.low_stride = round_up(most_rank, 16) + 16;
    call.low_size = most_rows * call.low_stride;
    int share = threads > 1 && kept < 2 * threads;
    int64_t places = share ? kept : kept < threads ? kept : threads;
    call.low = aligned_alloc(64, (size_t)round_up(places * call.low_size * (int64_t)sizeof(float), 64));
    if (!call.low) code = NO_MEMORY;
    else if (share) {
        call.parts = round_up(most_rank, RANK_PIECE) / RANK_PIECE;
        run(&call, rank_pieces, kept * call.parts, threads);
        call.parts = round_up(out, COLUMN_PIECE) / COLUMN_PIECE;
        run(&call, column_pieces, kept * call.parts, threads);
    } else {
        share_tiles(&call, rows, threads);
        run(&call, whole_tiles, kept, threads);
    }
    free(call.low);
    free(call.tiles);
    return code;
}

#define LOW_RANK(name, kernels, item)                                                                                  \
    EXPORT int32_t name(int32_t variant, const void *x, void *y, int64_t rows, int64_t in, int64_t out,               \
                        int64_t x_stride, int64_t y_stride, const int32_t *segments, int64_t segment_count,           \
                        const LowRankSlot *slots, int64_t slot_count, const void *row_scale,                          \
                        int64_t row_scale_stride, int32_t threads) {                                                   \
        return low_rank(kernels, item, variant, x, y, rows, in, out, x_stride, y_stride, segments, segment_count,      \
                        slots, slot_count, row_scale, row_scale_stride, threads);                                      \
    }

/* y (rows, out) += row_scale * scale * (act(x (rows, in) down^T + down_bias) up + up_bias) */
LOW_RANK(manyhats_low_rank_f32, kernels_f32, 4)
LOW_RANK(manyhats_low_rank_bf16, kernels_bf16, 2)
