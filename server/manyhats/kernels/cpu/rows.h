/* The loops over rows, for one type and one instruction set. Defined outside: TYPE, ELEMENT, PARTS (vectors of float32
   that STEP elements fill), and variant.h's names.

   bfloat16 comes in words of two: a vector of words gives one vector of the elements in even places and one of those in
   odd places, by a shift and a mask. Sums over a row do not care, and outputs are put together the same way. */

#define NAME(name) JOIN(JOIN(name, VARIANT), TYPE)
#define SPLAT JOIN(splat, VARIANT)
#define STEP (WIDTH * PARTS)

INLINE float NAME(number)(const ELEMENT *from) {
#if PARTS == 2
    return from_bf16(*from);
#else
    return *from;
#endif
}

INLINE void NAME(store_number)(ELEMENT *to, float number) {
#if PARTS == 2
    *to = to_bf16(number);
#else
    *to = number;
#endif
}

INLINE void NAME(load)(const ELEMENT *from, V *parts) {
#if PARTS == 2
    B words = (B) * (const BU *)from;
    parts[0] = (V)(words << 16);
    parts[1] = (V)(words & 0xffff0000u);
#else
    parts[0] = (V) * (const VU *)from;
#endif
}

INLINE void NAME(store)(ELEMENT *to, const V *parts) {
#if PARTS == 2 && HAS_BF16
    __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)parts[1], (__m512)parts[0]);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(INTERLEAVE, halves));
#elif PARTS == 2
    B half[2];
    for (int i = 0; i < 2; i++) {
        B bits = (B)parts[i], none = (B)(parts[i] != parts[i]);
        half[i] = bits + 0x7fffu + ((bits >> 16) & 1u);
        half[i] = (half[i] & ~none) | (none & 0x7fc00000u);
    }
    *(BU *)to = (BU)((half[0] >> 16) | (half[1] & 0xffff0000u));
#else
    *(VU *)to = (VU)parts[0];
#endif
}

/* low[i][j] = x_i . down_j for `rows` rows and `ranks` ranks, both constants where it is inlined. */
INLINE void NAME(dots)(const ELEMENT *x, int64_t x_stride, const ELEMENT *down, int64_t in, float *low,
                       int64_t low_stride, const int rows, const int ranks) {
    V sum[16];
#pragma GCC unroll 16
    for (int i = 0; i < rows * ranks; i++) sum[i] = SPLAT(0.0f);
    int64_t k = 0;
    for (; k + STEP <= in; k += STEP) {
        V own[4 * PARTS];
#pragma GCC unroll 4
        for (int i = 0; i < rows; i++) NAME(load)(x + i * x_stride + k, own + i * PARTS);
#pragma GCC unroll 8
        for (int j = 0; j < ranks; j++) {
            V weight[PARTS];
            NAME(load)(down + j * in + k, weight);
#pragma GCC unroll 4
            for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
                for (int p = 0; p < PARTS; p++) sum[i * ranks + j] += own[i * PARTS + p] * weight[p];
        }
    }
    if (ranks % 4 == 0) {
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
            for (int j = 0; j + 4 <= ranks; j += 4) JOIN(sum4, VARIANT)(sum + i * ranks + j, low + i * low_stride + j);
    } else
#pragma GCC unroll 16
        for (int i = 0; i < rows * ranks; i++) {
            float total = 0.0f;
            for (int lane = 0; lane < WIDTH; lane++) total += sum[i][lane];
            low[i / ranks * low_stride + i % ranks] = total;
        }
    for (; k < in; k++)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < ranks; j++)
                low[i * low_stride + j] += NAME(number)(x + i * x_stride + k) * NAME(number)(down + j * in + k);
}

/* The same for any number of ranks. */
INLINE void NAME(dots_all)(const ELEMENT *x, int64_t x_stride, const ELEMENT *down, int64_t in, int64_t ranks, float *low,
                           int64_t low_stride, const int rows) {
    int64_t j = 0;
    if (rows <= 2)
        for (; j + 8 <= ranks; j += 8) NAME(dots)(x, x_stride, down + j * in, in, low + j, low_stride, rows, 8);
    for (; j + 4 <= ranks; j += 4) NAME(dots)(x, x_stride, down + j * in, in, low + j, low_stride, rows, 4);
    for (; j < ranks; j++) NAME(dots)(x, x_stride, down + j * in, in, low + j, low_stride, rows, 1);
}

/* Applies bias and activation to the sums before `up`; for bfloat16 it rounds where torch does. */
static TARGET void NAME(finish)(const LowRankSlot *slot, int64_t r0, int64_t r1, float *low) {
    const ELEMENT *bias = slot->down_bias;
    if (bias)
        for (int64_t r = r0; r < r1; r++) low[r] += NAME(number)(bias + r);
#if PARTS == 2
    for (int64_t r = r0; r < r1; r++) low[r] = round_bf16(low[r]);
#endif
    if (slot->activation) {
        activate(slot->activation, low + r0, r1 - r0);
#if PARTS == 2
        for (int64_t r = r0; r < r1; r++) low[r] = round_bf16(low[r]);
#endif
    }
}

static TARGET void NAME(down)(const Call *call, const Tile *tile, int64_t r0, int64_t r1, float *low) {
    const LowRankSlot *slot = tile->slot;
    const ELEMENT *x = (const ELEMENT *)call->x + tile->row * call->x_stride;
    const ELEMENT *weights = (const ELEMENT *)slot->down + r0 * call->in;
    int64_t in = call->in, stride = call->x_stride, own = call->low_stride, ranks = r1 - r0, i = 0;
    for (; i + 4 <= tile->rows; i += 4) {
        NAME(dots_all)(x + i * stride, stride, weights, in, ranks, low + i * own + r0, own, 4);
    }
    if (i + 2 <= tile->rows) {
        NAME(dots_all)(x + i * stride, stride, weights, in, ranks, low + i * own + r0, own, 2);
        i += 2;
    }
    if (i < tile->rows) NAME(dots_all)(x + i * stride, stride, weights, in, ranks, low + i * own + r0, own, 1);
    for (i = 0; i < tile->rows; i++) NAME(finish)(slot, r0, r1, low + i * own);
}

/* The factor of what is added to a row. */
INLINE float NAME(weight)(const Call *call, const LowRankSlot *slot, int64_t row) {
    float weight = slot->factor;
    if (slot->scale && !slot->scale_step) weight *= NAME(number)(slot->scale);
    if (call->row_scale)
        weight *= NAME(number)((const ELEMENT *)call->row_scale + row * call->row_scale_stride);
    return weight;
}

/* y[i][c..] += weight_i * (low_i up + bias) for `rows` rows and `packs` times STEP columns. */
INLINE void NAME(raise)(const Call *call, const LowRankSlot *slot, int64_t row, int64_t column, const float *low,
                        const int rows, const int packs) {
    const int parts = packs * PARTS;
    const ELEMENT *up = (const ELEMENT *)slot->up + column;
    int64_t out = call->out, rank = slot->rank, own = call->low_stride;
    V sum[16];
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int p = 0; p < parts; p++) sum[i * parts + p] = SPLAT(0.0f);
    for (int64_t r = 0; r < rank; r++) {
        V weights[4];
#pragma GCC unroll 4
        for (int p = 0; p < packs; p++) NAME(load)(up + r * out + p * STEP, weights + p * PARTS);
#pragma GCC unroll 4
        for (int i = 0; i < rows; i++) {
            V number = SPLAT(low[i * own + r]);
#pragma GCC unroll 4
            for (int p = 0; p < parts; p++) sum[i * parts + p] += number * weights[p];
        }
    }
    const int has_bias = slot->up_bias != 0, has_scale = slot->scale && slot->scale_step;
    V bias[4], scale[4];
#pragma GCC unroll 4
    for (int p = 0; p < parts; p++) bias[p] = SPLAT(0.0f), scale[p] = SPLAT(1.0f);
    if (has_bias)
#pragma GCC unroll 4
        for (int p = 0; p < packs; p++)
            NAME(load)((const ELEMENT *)slot->up_bias + column + p * STEP, bias + p * PARTS);
    if (has_scale)
#pragma GCC unroll 4
        for (int p = 0; p < packs; p++)
            NAME(load)((const ELEMENT *)slot->scale + column + p * STEP, scale + p * PARTS);
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) {
        V weight = SPLAT(NAME(weight)(call, slot, row + i));
        ELEMENT *y = (ELEMENT *)call->y + (row + i) * call->y_stride + column;
#pragma GCC unroll 4
        for (int p = 0; p < packs; p++) {
            V now[PARTS];
            NAME(load)(y + p * STEP, now);
#pragma GCC unroll 2
            for (int q = 0; q < PARTS; q++) {
                V term = sum[i * parts + p * PARTS + q];
                if (has_bias) term += bias[p * PARTS + q];
                if (has_scale) term *= scale[p * PARTS + q];
                now[q] += weight * term;
            }
            NAME(store)(y + p * STEP, now);
        }
    }
}

/* One column of one row, where fewer than STEP columns remain. */
INLINE void NAME(raise_one)(const Call *call, const LowRankSlot *slot, int64_t row, int64_t column, const float *low) {
    float sum = 0.0f;
    for (int64_t r = 0; r < slot->rank; r++)
        sum += low[r] * NAME(number)((const ELEMENT *)slot->up + r * call->out + column);
    if (slot->up_bias) sum += NAME(number)((const ELEMENT *)slot->up_bias + column);
    if (slot->scale && slot->scale_step) sum *= NAME(number)((const ELEMENT *)slot->scale + column);
    ELEMENT *y = (ELEMENT *)call->y + row * call->y_stride + column;
    NAME(store_number)(y, NAME(number)(y) + NAME(weight)(call, slot, row) * sum);
}

/* Some rows of a tile for `packs` times STEP columns, so that the loaded part of `up` stays in the L1 cache. */
INLINE void NAME(raise_all)(const Call *call, const Tile *tile, int64_t row, int64_t rows, int64_t column,
                            const float *low, const int packs) {
    const LowRankSlot *slot = tile->slot;
    int64_t own = call->low_stride, i = row, end = row + rows;
    for (; i + 4 <= end; i += 4) NAME(raise)(call, slot, tile->row + i, column, low + i * own, 4, packs);
    if (i + 2 <= end) {
        NAME(raise)(call, slot, tile->row + i, column, low + i * own, 2, packs);
        i += 2;
    }
    if (i < end) NAME(raise)(call, slot, tile->row + i, column, low + i * own, 1, packs);
}

/* Where all of `up` fits the L1 cache, it takes a few rows at a time, so that y is read along its rows; else all rows
   of the tile for some columns of `up`. */
static TARGET void NAME(up)(const Call *call, const Tile *tile, int64_t c0, int64_t c1, const float *low) {
    const int64_t size = ((const LowRankSlot *)tile->slot)->rank * (c1 - c0) * (int64_t)sizeof(ELEMENT);
    const int64_t step = size <= L1_CACHE / 2 ? 4 : tile->rows;
    for (int64_t row = 0; row < tile->rows; row += step) {
        int64_t rows = tile->rows - row < step ? tile->rows - row : step, column = c0;
        for (; column + STEP * (4 / PARTS) <= c1; column += STEP * (4 / PARTS))
            NAME(raise_all)(call, tile, row, rows, column, low, 4 / PARTS);
        for (; column + STEP <= c1; column += STEP) NAME(raise_all)(call, tile, row, rows, column, low, 1);
        for (; column < c1; column++)
            for (int64_t i = row; i < row + rows; i++)
                NAME(raise_one)(call, tile->slot, tile->row + i, column, low + i * call->low_stride);
    }
}

/* y = now gain + offset for a step's columns, or for one. `gain`, `offset`: 0 where there is none. */
INLINE void NAME(store_scaled)(ELEMENT *y, V *now, const ELEMENT *gain, const ELEMENT *offset, int64_t c) {
    V own[PARTS];
    if (gain) {
        NAME(load)(gain + c, own);
        for (int p = 0; p < PARTS; p++) now[p] *= own[p];
    }
    if (offset) {
        NAME(load)(offset + c, own);
        for (int p = 0; p < PARTS; p++) now[p] += own[p];
    }
    NAME(store)(y + c, now);
}

INLINE void NAME(store_scaled_number)(ELEMENT *y, float now, const ELEMENT *gain, const ELEMENT *offset, int64_t c) {
    if (gain) now *= NAME(number)(gain + c);
    if (offset) now += NAME(number)(offset + c);
    NAME(store_number)(y + c, now);
}

static TARGET void NAME(scale_add)(const Call *call, const Tile *tile) {
    const ScaleAddSlot *slot = tile->slot;
    const ELEMENT *gain = slot->gain, *offset = slot->offset;
    if (!gain && !offset) return;
    for (int64_t i = 0; i < tile->rows; i++) {
        ELEMENT *y = (ELEMENT *)call->y + (tile->row + i) * call->y_stride;
        int64_t c = 0;
        for (; c + STEP <= call->out; c += STEP) {
            V now[PARTS];
            NAME(load)(y + c, now);
            NAME(store_scaled)(y, now, gain, offset, c);
        }
        for (; c < call->out; c++) {
            NAME(store_scaled_number)(y, NAME(number)(y + c), gain, offset, c);
        }
    }
}

#define OUTPUTS 8

/* At most OUTPUTS outputs of `rows` rows. */
INLINE void NAME(outputs)(const Call *call, const LinearSlot *slot, int64_t row, int64_t column, int64_t count,
                          const int rows) {
    float sums[4 * OUTPUTS];
    const ELEMENT *weight = (const ELEMENT *)slot->weight + column * call->in, *bias = slot->bias;
    NAME(dots_all)((const ELEMENT *)call->x + row * call->x_stride, call->x_stride, weight, call->in, count, sums,
                   OUTPUTS, rows);
    for (int i = 0; i < rows; i++)
        for (int64_t j = 0; j < count; j++) {
            float sum = sums[i * OUTPUTS + j] + (bias ? NAME(number)(bias + column + j) : 0.0f);
            NAME(store_number)((ELEMENT *)call->y + (row + i) * call->y_stride + column + j, sum);
        }
}

static TARGET void NAME(linear)(const Call *call, const Tile *tile) {
    const LinearSlot *slot = tile->slot;
    for (int64_t column = 0; column < slot->out; column += OUTPUTS) {
        int64_t count = slot->out - column < OUTPUTS ? slot->out - column : OUTPUTS, i = 0;
        for (; i + 4 <= tile->rows; i += 4) NAME(outputs)(call, slot, tile->row + i, column, count, 4);
        for (; i < tile->rows; i++) NAME(outputs)(call, slot, tile->row + i, column, count, 1);
    }
}

#include "fused_rows.h"
#include "sparse_rows.h"

#undef OUTPUTS

#include "attention.h"
#include "dense_rows.h"

static const Rows JOIN(JOIN(rows, VARIANT), TYPE) = {
    NAME(down),  NAME(up),       NAME(scale_add), NAME(linear), NAME(sparse), NAME(widen),
    NAME(dense), NAME(add_norm), NAME(weigh),     NAME(attend), 0};

#undef NAME
#undef SPLAT
#undef STEP
#undef TYPE
#undef ELEMENT
#undef PARTS
