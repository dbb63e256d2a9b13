/* Sparse differences: the loops over the rows of a tile. Part of rows.h, with its names.

   SPARSE_ROWS rows are transposed at a time, so that each value of the difference is multiplied with a column of x for all
   of these rows at once, and added to a row of the transposed sums. A few rows are computed one by one. */

INLINE F4 NAME(load4)(const ELEMENT *from) {
#if PARTS == 2
    return (F4)(__builtin_convertvector(*(const H4 *)from, W4) << 16);
#else
    return *(const F4 *)from;
#endif
}

/* The sums of one row. */
INLINE void NAME(sparse_row)(const ELEMENT *x, ELEMENT *y, const SparseSlot *slot, int64_t in, int64_t out, double inverse,
                             float *sums) {
    const int32_t *indices = slot->indices;
    const ELEMENT *values = slot->values;
    memset(sums, 0, (size_t)out * sizeof(float));
    for (int64_t k = 0; k < slot->count; k++) {
        int64_t output = output_of(indices[k], inverse);
        sums[output] += NAME(number)(values + k) * NAME(number)(x + indices[k] - output * in);
    }
    for (int64_t c = 0; c < out; c++) NAME(store_number)(y + c, NAME(number)(y + c) + sums[c]);
}

/* At most SPARSE_ROWS rows. `columns`: room for x, transposed; `sums`: for the sums, transposed. */
INLINE void NAME(sparse_block)(const Call *call, const SparseSlot *slot, int64_t row, int64_t rows, double inverse,
                               float *columns, float *sums) {
    const ELEMENT *own[SPARSE_ROWS], *values = slot->values;
    const int32_t *indices = slot->indices;
    const int64_t in = call->in, out = call->out;
    for (int64_t i = 0; i < SPARSE_ROWS; i++)
        own[i] = (const ELEMENT *)call->x + (row + (i < rows ? i : rows - 1)) * call->x_stride;
    int64_t k = 0;
    for (; k + 4 <= in; k += 4)
        for (int i = 0; i < SPARSE_ROWS; i += 4) {
            F4 a[4] = {NAME(load4)(own[i] + k), NAME(load4)(own[i + 1] + k), NAME(load4)(own[i + 2] + k),
                       NAME(load4)(own[i + 3] + k)};
            TRANSPOSE(a);
            for (int j = 0; j < 4; j++) *(F4 *)(columns + (k + j) * SPARSE_ROWS + i) = a[j];
        }
    for (; k < in; k++)
        for (int i = 0; i < SPARSE_ROWS; i++) columns[k * SPARSE_ROWS + i] = NAME(number)(own[i] + k);

    memset(sums, 0, (size_t)(out * SPARSE_ROWS) * sizeof(float));
    for (k = 0; k < slot->count; k++) {
        int64_t output = output_of(indices[k], inverse);
        const float *from = columns + (indices[k] - output * in) * SPARSE_ROWS;
        float *to = sums + output * SPARSE_ROWS;
        V value = SPLAT(NAME(number)(values + k));
#pragma GCC unroll 4
        for (int i = 0; i < SPARSE_ROWS; i += WIDTH) *(VU *)(to + i) = (VU)((V) * (VU *)(to + i) + value * (V) * (const VU *)(from + i));
    }

    int64_t c = 0;
    for (; c + 4 <= out; c += 4)
        for (int64_t i = 0; i < rows; i += 4) {
            F4 a[4];
            for (int j = 0; j < 4; j++) a[j] = *(F4 *)(sums + (c + j) * SPARSE_ROWS + i);
            TRANSPOSE(a);
            for (int64_t j = 0; j < 4 && i + j < rows; j++) {
                ELEMENT *y = (ELEMENT *)call->y + (row + i + j) * call->y_stride + c;
                F4 now = NAME(load4)(y) + a[j];
#if PARTS == 2
                *(H4 *)y = to_bf16_4(now);
#else
                *(F4 *)y = now;
#endif
            }
        }
    for (; c < out; c++)
        for (int64_t i = 0; i < rows; i++) {
            ELEMENT *y = (ELEMENT *)call->y + (row + i) * call->y_stride + c;
            NAME(store_number)(y, NAME(number)(y) + sums[c * SPARSE_ROWS + i]);
        }
}

static TARGET void NAME(sparse)(const Call *call, const Tile *tile, float *scratch) {
    const SparseSlot *slot = tile->slot;
    const double inverse = 1.0 / (double)call->in;
    float *sums = scratch + call->in * SPARSE_ROWS;
    for (int64_t i = 0; i < tile->rows; i += SPARSE_ROWS) {
        int64_t rows = tile->rows - i < SPARSE_ROWS ? tile->rows - i : SPARSE_ROWS, row = tile->row + i;
        if (rows >= FEW_ROWS) NAME(sparse_block)(call, slot, row, rows, inverse, scratch, sums);
        else
            for (int64_t j = row; j < row + rows; j++)
                NAME(sparse_row)((const ELEMENT *)call->x + j * call->x_stride,
                                 (ELEMENT *)call->y + j * call->y_stride, slot, call->in, call->out, inverse, sums);
    }
}
