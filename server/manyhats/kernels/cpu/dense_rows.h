/* Whole weights, masked or not, for one type and one instruction set. Defined outside: what rows.h has, and its names.

   Rows and weights are unpacked to float32, in an order of elements that is the same for both. */

/* The bits `first` to `first + count`, for `count` up to 32. */
INLINE uint32_t NAME(bits_at)(const uint8_t *bits, int64_t first, const int count) {
    const uint8_t *from = bits + (first >> 3);
    const int shift = (int)(first & 7);
    uint64_t word = 0;
    if (shift == 0 && count % 8 == 0) memcpy(&word, from, (size_t)count / 8);
    else
        for (int i = 0; 8 * i < shift + count; i++) word |= (uint64_t)from[i] << 8 * i;
    return (uint32_t)(word >> shift);
}

/* STEP elements whose bits are set, zeros for the others. */
INLINE void NAME(load_kept)(const ELEMENT *from, uint32_t kept, V *parts) {
#if WIDTH == 16 && PARTS == 1
    parts[0] = (V)_mm512_maskz_loadu_ps((__mmask16)kept, from);
#elif WIDTH == 16
    B words = (B)_mm512_maskz_loadu_epi16((__mmask32)kept, from);
    parts[0] = (V)(words << 16);
    parts[1] = (V)(words & 0xffff0000u);
#else
    NAME(load)(from, parts);
    for (int p = 0; p < PARTS; p++) {
        B lanes;
        for (int i = 0; i < WIDTH; i++) lanes[i] = 1u << (i * PARTS + p);
        parts[p] = (V)((B)parts[p] & (B)((((B){0} + kept) & lanes) == lanes));
    }
#endif
}

/* `count` elements as float32, and zeros up to a multiple of STEP. `bits`: 0, or whose bits from `first` on say which
   elements count. */
static TARGET void NAME(unpack)(const ELEMENT *from, int64_t count, const uint8_t *bits, int64_t first, float *to) {
    int64_t k = 0;
    for (; k + STEP <= count; k += STEP) {
        V parts[PARTS];
        if (bits) NAME(load_kept)(from + k, NAME(bits_at)(bits, first + k, STEP), parts);
        else NAME(load)(from + k, parts);
        for (int p = 0; p < PARTS; p++) *(VU *)(to + k + p * WIDTH) = (VU)parts[p];
    }
    if (k == count) return;
    memset(to + k, 0, STEP * sizeof *to);
    for (int i = 0; k + i < count; i++)
        if (!bits || bits[(first + k + i) >> 3] >> ((first + k + i) & 7) & 1)
            to[k + i / PARTS + i % PARTS * WIDTH] = NAME(number)(from + k + i);
}

/* Unpacks the rows of a tile to where they have their place in `wide`. */
static TARGET void NAME(widen)(const Call *call, const Tile *tile) {
    for (int64_t i = 0; i < tile->rows; i++)
        NAME(unpack)((const ELEMENT *)call->x + (tile->row + i) * call->x_stride, call->in, 0, 0,
                     call->wide + (tile->place + i) * call->wide_stride);
}

/* y[:, c0:c1] = x (weight * bits)^T + bias for the rows of a tile. `scratch`: of this thread. */
static TARGET void NAME(dense)(const Call *call, const Tile *tile, int64_t c0, int64_t c1, float *scratch) {
    const Layer layer = layer_of(call, tile->slot);
    const ELEMENT *bias = layer.bias;
    const int64_t in = call->in, x_stride = call->wide ? call->wide_stride : call->x_stride;
    const float *x = call->wide ? call->wide + tile->place * x_stride : (const float *)call->x + tile->row * x_stride;
    const int64_t parts = (in + DENSE_WIDTH - 1) / DENSE_WIDTH;
    const int64_t width = (in + parts * STEP - 1) / (parts * STEP) * STEP; /* of a part */
    float *weights = scratch + DENSE_ROWS * DENSE_OUTPUTS;
    if (c1 > layer.out) c1 = layer.out;
    for (int64_t c = c0; c < c1; c += DENSE_OUTPUTS) {
        const int64_t outputs = c1 - c < DENSE_OUTPUTS ? c1 - c : DENSE_OUTPUTS;
        for (int64_t k = 0; k < in; k += width) {
            const int64_t count = in - k < width ? in - k : width, padded = (count + STEP - 1) / STEP * STEP;
            for (int64_t j = 0; j < outputs; j++)
                NAME(unpack)((const ELEMENT *)layer.weight + (c + j) * in + k, count, layer.bits, (c + j) * in + k,
                             weights + j * DENSE_STRIDE);
            for (int64_t j = outputs; j % 4; j++)
                memset(weights + j * DENSE_STRIDE, 0, (size_t)padded * sizeof *weights);
            JOIN(dot_products, VARIANT)(x + k, x_stride, tile->rows, weights, DENSE_STRIDE,
                                        (outputs + 3) / 4 * 4, padded, scratch, DENSE_OUTPUTS, k > 0);
        }
        for (int64_t i = 0; i < tile->rows; i++) {
            ELEMENT *y = (ELEMENT *)call->y + (tile->row + i) * call->y_stride + c;
            const float *sums = scratch + i * DENSE_OUTPUTS;
            if (outputs == DENSE_OUTPUTS && bias) /* the usual case, which compilers turn into vectors */
                for (int64_t j = 0; j < DENSE_OUTPUTS; j++)
                    NAME(store_number)(y + j, sums[j] + NAME(number)(bias + c + j));
            else
                for (int64_t j = 0; j < outputs; j++)
                    NAME(store_number)(y + j, sums[j] + (bias ? NAME(number)(bias + c + j) : 0.0f));
        }
    }
}
