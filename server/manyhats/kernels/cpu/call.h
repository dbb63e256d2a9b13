/* What a call of any operation consists of: the structs that Python fills, tiles of rows, and numbers in bfloat16. */

#ifndef MANYHATS_CALL_H
#define MANYHATS_CALL_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)

enum { OK = 0, NO_MEMORY = 1, OUT_OF_RANGE = 2, NO_SUCH_VARIANT = 3, EMPTY_SLOT = 4 };

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

typedef struct {
    int32_t present;
    int32_t count;
    const int32_t *indices; /* (count) into the flattened (out, in), rising */
    const void *values;     /* (count) */
} SparseSlot;

typedef struct {
    int32_t present;
    int32_t unused;
    const void *bits; /* (out * in) bits, row by row, the lowest of a byte first */
} MaskSlot;

/* Rows of one slot that one thread computes. */
typedef struct {
    int64_t row, rows;
    const void *slot;
    int64_t place; /* its first row in `wide` */
} Tile;

/* The tiles that a thread takes first: `next` to `end`. */
typedef struct {
    int64_t next, end;
} Share;

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
    /* y += x D^T with a sparse D; `scratch`: SPARSE_ROWS * (in + out) floats */
    void (*sparse)(const Call *, const Tile *, float *scratch);
    /* wide = x, in float32 or as `packed` says */
    void (*widen)(const Call *, const Tile *);
    /* y = x (weight * bits)^T + bias for the columns c0 to c1 */
    void (*dense)(const Call *, const Tile *, int64_t c0, int64_t c1, float *scratch);
    /* y = norm(f + x) gain + offset; `scratch`: a row in float32 */
    void (*add_norm)(const Call *, const Tile *, float *scratch);
    /* the weights of a fusion; see fused_rows.h */
    void (*weigh)(const Call *, const Tile *, float *scratch);
    /* one head of keys of one sequence; see attention_calls.h */
    void (*attend)(const Attention *, int64_t sequence, int64_t head, float *scratch);
    int32_t packed; /* whether `wide` has bfloat16, packed for `dense` */
} Rows;

struct Call {
    const Rows *kernels;
    const void *x;
    void *y;
    const void *row_scale; /* one number a row, or 0 */
    int64_t item; /* bytes of a number, which low_rank sets */
    int64_t in, out, x_stride, y_stride, row_scale_stride;
    Tile *tiles;
    int64_t count; /* tiles */
    Share *shares; /* behind the tiles, in the same memory */
    int64_t share_count;
    float *low;
    int64_t low_stride, low_size; /* of one tile, in floats */
    int64_t parts;                /* chunks of a tile's ranks or columns, shared among threads */
    const void *base, *base_bias; /* the layer that all slots mask: (out, in) and (out) or 0 */
    float *wide;                  /* the tiles' rows of x, as `widen` writes them; 0 where x is as `dense` reads it */
    int64_t wide_stride;
    int64_t next, workers;        /* the next tile or chunk; how many threads have a tile */
    const void *f, *gain, *offset; /* what is added to x, and the norm's (out) or 0 */
    int64_t f_stride, members;     /* members: of a fusion */
    float epsilon;
    int32_t activation;
};

#define SPARSE_ROWS 16 /* rows that a sparse difference takes at once */
#define FEW_ROWS 4     /* fewer of them it takes one by one */

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

/* A whole layer: (out, in), bits or 0, (out) or 0. */
typedef struct {
    const void *weight;
    const uint8_t *bits;
    const void *bias;
    int64_t out;
} Layer;

/* What a slot's layer is: its own, or the base under the slot's mask. */
static inline Layer layer_of(const Call *call, const void *slot) {
    if (call->base) return (Layer){call->base, ((const MaskSlot *)slot)->bits, call->base_bias, call->out};
    const LinearSlot *own = slot;
    return (Layer){own->weight, 0, own->bias, own->out};
}

#define DENSE_ROWS 128                   /* maximum rows of a tile that share an unpacked weight */
#define DENSE_OUTPUTS 16                 /* outputs that are unpacked at a time */
#define DENSE_WIDTH 512                  /* and maximum inputs of them */
#define DENSE_STRIDE (DENSE_WIDTH + 48)  /* no power of two, so that outputs do not map to the same cache sets */

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

/* Vectors of four, which every instruction set has, to transpose with. */
typedef float F4 __attribute__((vector_size(16), aligned(2), may_alias));
typedef uint32_t W4 __attribute__((vector_size(16)));
typedef uint16_t H4 __attribute__((vector_size(8), aligned(2), may_alias));

/* As `to_bf16`, for four numbers. */
static inline __attribute__((always_inline)) H4 to_bf16_4(F4 numbers) {
    W4 bits = (W4)numbers, none = (W4)(numbers != numbers), near = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return __builtin_convertvector((near & ~none) | (none & 0x7fc0u), H4);
}

#if defined(__clang__)
#define PICK(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define PICK(a, b, i, j, k, l) __builtin_shuffle(a, b, (W4){i, j, k, l})
#endif

#define TRANSPOSE(a)                                                                                                   \
    do {                                                                                                               \
        F4 low01 = PICK(a[0], a[1], 0, 4, 1, 5), low23 = PICK(a[2], a[3], 0, 4, 1, 5);                                 \
        F4 high01 = PICK(a[0], a[1], 2, 6, 3, 7), high23 = PICK(a[2], a[3], 2, 6, 3, 7);                               \
        a[0] = PICK(low01, low23, 0, 1, 4, 5), a[1] = PICK(low01, low23, 2, 3, 6, 7);                                  \
        a[2] = PICK(high01, high23, 0, 1, 4, 5), a[3] = PICK(high01, high23, 2, 3, 6, 7);                              \
    } while (0)

/* index / in, for `inverse` = 1 / in. Exact: the half keeps it from whole numbers by more than rounding can change. */
static inline __attribute__((always_inline)) int64_t output_of(int32_t index, double inverse) {
    return (int64_t)(((double)index + 0.5) * inverse);
}

#endif
