/* The operations of kernels/base.py on the CPU, with a C interface: addresses, and sizes and strides in elements.

   One build supports all processors and all versions of torch: the loops of rows.h are compiled once for each
   instruction set (a "variant"), and the caller chooses the variant. The library runs on the threads of torch's own
   OpenMP runtime, whose GOMP_parallel the caller passes as a pointer: a second runtime in the process would make both
   slow. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#include "activations.h"

#define EXPORT __attribute__((visibility("default")))

/* The version of the functions and structs below; library.py expects the same number. */
#define ABI 1

enum { OK = 0, NO_MEMORY = 1, OUT_OF_RANGE = 2, NO_SUCH_VARIANT = 3, EMPTY_SLOT = 4 };
enum { BASELINE, AVX2, AVX512, AVX512_BF16, VARIANTS };

/* The entry of one slot at a site. Matrices are contiguous; an address of 0 means that there is none. `present`: 0
   where the slot has no entry; a segment with such a slot is an error. */
typedef struct {
    int32_t present;
    int32_t rank;
    const void *down;      /* (rank, in) */
    const void *up;        /* (rank, out) */
    const void *down_bias; /* (rank) */
    const void *up_bias;   /* (out) */
    const void *scale;     /* (1) or (out) */
    float factor;          /* a number that scales as well */
    int32_t activation;
    int32_t scale_step; /* 0 where `scale` is one number, else 1 */
    int32_t unused;
} LowRankSlot;

typedef struct {
    int32_t present;
    int32_t unused;
    const void *gain;   /* (out) */
    const void *offset; /* (out) */
} ScaleAddSlot;

typedef struct {
    int32_t present;
    int32_t out;
    const void *weight; /* (out, in) */
    const void *bias;   /* (out) */
} LinearSlot;

/* Rows of one slot that one thread computes. */
typedef struct {
    int64_t row, rows;
    const void *slot;
} Tile;

typedef struct Call Call;
typedef struct Attention Attention;

typedef struct {
    /* low (rows, low_stride) = act(x down^T + bias) for the ranks r0 to r1, as `up` reads it */
    void (*down)(const Call *, const Tile *, int64_t r0, int64_t r1, float *low);
    /* y += scale * (low up + bias) for the columns c0 to c1 */
    void (*up)(const Call *, const Tile *, int64_t c0, int64_t c1, const float *low);
    /* y = y * gain + offset */
    void (*scale_add)(const Call *, const Tile *);
    /* y[:, :out] = x weight^T + bias */
    void (*linear)(const Call *, const Tile *);
    /* one head of keys of one sequence */
    void (*attend)(const Attention *, int64_t sequence, int64_t head, float *scratch);
} Rows;

struct Call {
    const Rows *kernels;
    const void *x;
    void *y;
    const void *row_scale; /* one number a row, or 0 */
    int64_t in, out, x_stride, y_stride, row_scale_stride;
    Tile *tiles;
    int64_t count; /* tiles */
    float *low;
    int64_t low_stride, low_size; /* of one tile, in floats */
    int64_t parts;                /* chunks of a tile's ranks or columns, shared among threads */
    int64_t next, workers;        /* the next tile or chunk; how many threads have a tile */
};

/* See attention_calls.h. */
struct Attention {
    const Rows *kernels;
    const void *q, *new_keys, *new_values;
    void *keys, *values, *out;
    const int64_t *q_strides, *k_strides, *v_strides; /* between sequences, and between heads */
    int64_t sequences, kv_heads, folded, dim;
    float scale;
    const int64_t *rows, *bounds, *first;
    float *scratch;
    int64_t scratch_size, stride; /* of a worker, and of one query's weights, in floats */
    int64_t next, workers;
};

#define L1_CACHE 32768 /* bytes of the smallest L1 data cache of common processors */

static inline __attribute__((always_inline)) float from_bf16(uint16_t value) {
    union { uint32_t bits; float number; } word = {(uint32_t)value << 16};
    return word.number;
}

/* Rounds to nearest, ties to even; NaN stays NaN. */
static inline __attribute__((always_inline)) uint32_t rounded_bits(uint32_t bits) {
    uint32_t near = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
    return (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : near;
}

static inline __attribute__((always_inline)) float round_bf16(float number) {
    union { float number; uint32_t bits; } word = {number};
    union { uint32_t bits; float number; } near = {rounded_bits(word.bits)};
    return near.number;
}

static inline __attribute__((always_inline)) uint16_t to_bf16(float number) {
    union { float number; uint32_t bits; } word = {number};
    return (uint16_t)(rounded_bits(word.bits) >> 16);
}

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)

#define VARIANT baseline
#define TARGET
#define WIDTH 4
#define HAS_BF16 0
#include "variant.h"

#if defined(__x86_64__)
/* The words 0, 16, 1, 17 and so on: the two halves interleaved. */
#define PAIR(i) ((i) | ((i) + 16) << 16)
#define INTERLEAVE                                                                                                     \
    _mm512_setr_epi32(PAIR(0), PAIR(1), PAIR(2), PAIR(3), PAIR(4), PAIR(5), PAIR(6), PAIR(7), PAIR(8), PAIR(9),        \
                      PAIR(10), PAIR(11), PAIR(12), PAIR(13), PAIR(14), PAIR(15))

#define VARIANT avx2
#define TARGET __attribute__((target("avx2,fma")))
#define WIDTH 8
#define HAS_BF16 0
#include "variant.h"

#define VARIANT avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define WIDTH 16
#define HAS_BF16 0
#include "variant.h"

/* Of the bfloat16 instructions only the conversions are used: products of pairs (vdpbf16ps) take longer than the two
   multiplications that they replace on processors that run two of those at a time. float32 would gain nothing. */
#define VARIANT avx512_bf16
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")))
#define WIDTH 16
#define HAS_BF16 1
#include "variant.h"
#endif

static const Rows *const kernels_f32[VARIANTS] = {
    &rows_baseline_f32,
#if defined(__x86_64__)
    &rows_avx2_f32, &rows_avx512_f32, &rows_avx512_f32,
#endif
};
static const Rows *const kernels_bf16[VARIANTS] = {
    &rows_baseline_bf16,
#if defined(__x86_64__)
    &rows_avx2_bf16, &rows_avx512_bf16, &rows_avx512_bf16_bf16,
#endif
};

EXPORT int32_t manyhats_abi(void) { return ABI; }

#if defined(__x86_64__)
/* __builtin_cpu_supports is not used because not every compiler's runtime has the function that it calls. */
static int32_t best_variant(void) {
    const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    unsigned a, b, c, d, features, saved, more;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 27) || !(c & 1u << 12)) return BASELINE; /* OSXSAVE, FMA */
    __asm__("xgetbv" : "=a"(saved), "=d"(d) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &features, &c, &d)) return BASELINE;
    if (!(features & 1u << 5) || (saved & 0x06) != 0x06) return BASELINE; /* the operating system saves the registers */
    if ((features & avx512) != avx512 || (saved & 0xe6) != 0xe6) return AVX2;
    if (!__get_cpuid_count(7, 1, &more, &b, &c, &d)) return AVX512;
    return more & 1u << 5 ? AVX512_BF16 : AVX512;
}
#else
static int32_t best_variant(void) { return BASELINE; }
#endif

/* The best variant that the processor and the operating system support; all lower ones are supported too. */
EXPORT int32_t manyhats_best_variant(void) { return best_variant(); }

/* --- threads ---------------------------------------------------------------------------------------------------- */

typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);
static Parallel parallel; /* GOMP_parallel of torch's OpenMP runtime */

/* Without this call, or after it with 0, only the caller's thread is used. */
EXPORT void manyhats_use_threads(void *gomp_parallel) { parallel = (Parallel)gomp_parallel; }

#define TILE 32            /* maximum rows of a tile: their intermediate sums fit the L1 cache */
#define GROUP 4            /* minimum rows of a tile, where the segment has as many: they share loaded weights */
#define WORTH_THREADS 8e3  /* estimated nanoseconds on one thread, below which waking others costs more */
#define FLOPS_A_NS 25.0
#define BYTES_A_NS 8.0
#define RANK_PIECE 8
#define COLUMN_PIECE 128

/* Uses all threads or one, as torch does: with a smaller team OpenMP ends threads that torch must then start again. */
static void run(Call *call, void (*work)(void *), int64_t pieces, int threads) {
    call->next = call->workers = 0;
    if (threads > 1 && pieces > 1) parallel(work, call, (unsigned)threads, 0);
    else work(call);
}

static int64_t fetch_next(int64_t *counter) { return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED); }

static int64_t round_up(int64_t number, int64_t step) { return (number + step - 1) / step * step; }

/* Divides segments (first row, rows, slot) into tiles. */
static int make_tiles(Call *call, int64_t rows, const int32_t *segments, int64_t count, const char *slots,
                      int64_t slot_size, int64_t slot_count, int threads) {
    int64_t total = 0, tile_count = 0, step;
    for (int64_t i = 0; i < count; i++) {
        int64_t first = segments[3 * i], own = segments[3 * i + 1];
        int64_t slot = segments[3 * i + 2];
        if (first < 0 || own < 0 || first + own > rows || slot < 0) return OUT_OF_RANGE;
        if (slot >= slot_count || !*(const int32_t *)(slots + slot * slot_size)) return EMPTY_SLOT;
        total += own;
    }
    step = threads > 1 ? round_up(total / (3 * threads), GROUP) : TILE;
    step = step < GROUP ? GROUP : step > TILE ? TILE : step;
    for (int64_t i = 0; i < count; i++) tile_count += (segments[3 * i + 1] + step - 1) / step;
    call->tiles = malloc((size_t)(tile_count ? tile_count : 1) * sizeof(Tile));
    if (!call->tiles) return NO_MEMORY;
    call->count = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t row = segments[3 * i], end = row + segments[3 * i + 1], slot = segments[3 * i + 2];
        for (; row < end; row += step)
            call->tiles[call->count++] = (Tile){row, end - row < step ? end - row : step, slots + slot * slot_size};
    }
    return OK;
}

/* --- low_rank --------------------------------------------------------------------------------------------------- */

static void whole_tiles(void *data) {
    Call *call = data;
    int64_t i = fetch_next(&call->next);
    if (i >= call->count) return;
    float *low = call->low + fetch_next(&call->workers) * call->low_size;
    for (; i < call->count; i = fetch_next(&call->next)) {
        const Tile *tile = &call->tiles[i];
        const LowRankSlot *slot = tile->slot;
        call->kernels->down(call, tile, 0, slot->rank, low);
        call->kernels->up(call, tile, 0, call->out, low);
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
    Call call = {.kernels = kernels[variant], .x = x, .y = y, .row_scale = row_scale, .in = in, .out = out,
                 .x_stride = x_stride, .y_stride = y_stride, .row_scale_stride = row_scale_stride};
    if (!parallel || threads < 1) threads = 1;
    int code = make_tiles(&call, rows, segments, segment_count, (const char *)slots, sizeof *slots, slot_count,
                          threads);
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
    } else run(&call, whole_tiles, kept, threads);
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

/* --- scale_add -------------------------------------------------------------------------------------------------- */

static void scaled_tiles(void *data) {
    Call *call = data;
    for (int64_t i; (i = fetch_next(&call->next)) < call->count;) call->kernels->scale_add(call, &call->tiles[i]);
}

static int scale_add(const Rows *const *kernels, int64_t item, int32_t variant, void *y, int64_t rows, int64_t out,
                     int64_t y_stride, const int32_t *segments, int64_t segment_count, const ScaleAddSlot *slots,
                     int64_t slot_count, int32_t threads) {
    if (variant < 0 || variant >= VARIANTS || !kernels[variant]) return NO_SUCH_VARIANT;
    Call call = {.kernels = kernels[variant], .y = y, .out = out, .y_stride = y_stride};
    if (!parallel || threads < 1) threads = 1;
    int code = make_tiles(&call, rows, segments, segment_count, (const char *)slots, sizeof *slots, slot_count,
                          threads);
    if (code) return code;
    int64_t total = 0;
    for (int64_t i = 0; i < call.count; i++) total += call.tiles[i].rows;
    if ((double)(2 * item * total * out) / BYTES_A_NS < WORTH_THREADS) threads = 1;
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

/* --- linear ----------------------------------------------------------------------------------------------------- */

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
                          threads);
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

/* --- attention -------------------------------------------------------------------------------------------------- */

#include "attention_calls.h"
