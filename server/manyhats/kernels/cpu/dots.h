/* The product of a whole weight with many rows, for one instruction set: float32 dot products of `rows` rows with four
   outputs at a time, whose operands other loops (dense_rows.h) have unpacked. Defined outside: variant.h's names.

   Every sum runs over one row and one output alone and always in the same order, however rows are grouped. */

#if WIDTH == 16
#define DOT_ROWS 6 /* 24 sums, 4 vectors of weights and one of x fit 32 registers */
#elif WIDTH == 8
#define DOT_ROWS 3
#else
#define DOT_ROWS 2
#endif

/* sums[i][j] (+)= x_i . weight_j for `rows` rows and 4 outputs. `count` is a multiple of WIDTH. */
INLINE void JOIN(dots_of, VARIANT)(const float *x, int64_t x_stride, const float *weight, int64_t weight_stride,
                                   int64_t count, float *sums, int64_t sums_stride, int more, const int rows) {
    V sum[4 * DOT_ROWS];
#pragma GCC unroll 24
    for (int i = 0; i < 4 * rows; i++) sum[i] = JOIN(splat, VARIANT)(0.0f);
    for (int64_t k = 0; k < count; k += WIDTH) {
        V other[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) other[j] = (V) * (const VU *)(weight + j * weight_stride + k);
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            V own = (V) * (const VU *)(x + i * x_stride + k);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) sum[4 * i + j] += own * other[j];
        }
    }
    float own[4 * DOT_ROWS];
    JOIN(sums_of, VARIANT)(sum, rows < 4 ? rows : 4, own);
    if (rows > 4) JOIN(sums_of, VARIANT)(sum + 16, rows - 4, own + 16);
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < 4; j++)
            sums[i * sums_stride + j] = more ? sums[i * sums_stride + j] + own[4 * i + j] : own[4 * i + j];
}

/* The same for any number of rows, and for `outputs` outputs, a multiple of 4. */
static TARGET void JOIN(dot_products, VARIANT)(const float *x, int64_t x_stride, int64_t rows, const float *weight,
                                               int64_t weight_stride, int64_t outputs, int64_t count, float *sums,
                                               int64_t sums_stride, int more) {
#define DOTS(n)                                                                                                        \
    for (int64_t j = 0; j < outputs; j += 4)                                                                           \
        JOIN(dots_of, VARIANT)(x + i * x_stride, x_stride, weight + j * weight_stride, weight_stride, count,           \
                               sums + i * sums_stride + j, sums_stride, more, n)
    int64_t i = 0;
    for (; i + DOT_ROWS <= rows; i += DOT_ROWS) DOTS(DOT_ROWS);
#if DOT_ROWS == 6
    switch (rows - i) {
    case 1: DOTS(1); break;
    case 2: DOTS(2); break;
    case 3: DOTS(3); break;
    case 4: DOTS(4); break;
    case 5: DOTS(5); break;
    }
#else
#if DOT_ROWS == 3
    if (rows - i == 2) {
        DOTS(2);
        return;
    }
#endif
    if (rows - i == 1) DOTS(1);
#endif
#undef DOTS
}

#undef DOT_ROWS
