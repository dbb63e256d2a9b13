/* Attention of single queries to rows of a cache, for one type and one instruction set; see attention_calls.h. Defined
   outside: what rows.h needs, and its names. */

/* scores[h][j] = q_h . key_j for `heads` queries, a constant where it is inlined, and `keys` keys, at most 4. */
INLINE void NAME(scores)(const float *q, const ELEMENT *const *keys, int64_t dim, float *scores, int64_t stride,
                         const int heads, const int count) {
    V sum[16];
#pragma GCC unroll 16
    for (int i = 0; i < heads * 4; i++) sum[i] = SPLAT(0.0f);
    int64_t d = 0;
    for (; d + STEP <= dim; d += STEP) {
        V key[4 * PARTS];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) NAME(load)(keys[j < count ? j : 0] + d, key + j * PARTS);
#pragma GCC unroll 4
        for (int h = 0; h < heads; h++)
#pragma GCC unroll 2
            for (int p = 0; p < PARTS; p++) {
                V own = (V) * (const VU *)(q + h * dim + d + p * WIDTH);
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) sum[h * 4 + j] += own * key[j * PARTS + p];
            }
    }
    for (int h = 0; h < heads; h++) {
        float totals[4];
        JOIN(sum4, VARIANT)(sum + h * 4, totals);
        for (int j = 0; j < count; j++) {
            float total = totals[j];
            for (int64_t k = d; k < dim; k++) total += q[h * dim + k] * NAME(number)(keys[j] + k);
            scores[h * stride + j] = total;
        }
    }
}

/* out_h = sum_j weights[h][j] value_j / sums[h] for `heads` queries, a constant where it is inlined. */
INLINE void NAME(mix)(const float *weights, int64_t stride, const float *sums, const ELEMENT *values,
                      const int64_t *rows, int64_t count, int64_t row_stride, int64_t dim, ELEMENT *out,
                      const int heads) {
    int64_t d = 0;
    for (; d + STEP <= dim; d += STEP) {
        V total[4 * PARTS];
#pragma GCC unroll 8
        for (int i = 0; i < heads * PARTS; i++) total[i] = SPLAT(0.0f);
        for (int64_t j = 0; j < count; j++) {
            V value[PARTS];
            NAME(load)(values + rows[j] * row_stride + d, value);
#pragma GCC unroll 4
            for (int h = 0; h < heads; h++) {
                V weight = SPLAT(weights[h * stride + j]);
#pragma GCC unroll 2
                for (int p = 0; p < PARTS; p++) total[h * PARTS + p] += weight * value[p];
            }
        }
        for (int h = 0; h < heads; h++) {
            V share = SPLAT(1.0f / sums[h]);
            for (int p = 0; p < PARTS; p++) total[h * PARTS + p] *= share;
            NAME(store)(out + h * dim + d, total + h * PARTS);
        }
    }
    for (; d < dim; d++)
        for (int h = 0; h < heads; h++) {
            float total = 0;
            for (int64_t j = 0; j < count; j++)
                total += weights[h * stride + j] * NAME(number)(values + rows[j] * row_stride + d);
            NAME(store_number)(out + h * dim + d, total / sums[h]);
        }
}

/* `heads` queries that share keys: q (heads, dim) already scaled, in the order in which keys are loaded. */
INLINE void NAME(attend_heads)(const float *q, const ELEMENT *keys, const ELEMENT *values, const int64_t *rows,
                               int64_t count, int64_t row_stride, int64_t dim, float *weights, int64_t stride,
                               ELEMENT *out, const int heads) {
    for (int64_t j = 0; j < count; j += 4) {
        const ELEMENT *own[4];
        int some = count - j < 4 ? (int)(count - j) : 4;
        for (int i = 0; i < some; i++) own[i] = keys + rows[j + i] * row_stride;
        for (int64_t i = j + 8; i < j + 12 && i < count; i++) {
            const ELEMENT *next = keys + rows[i] * row_stride;
            for (int64_t d = 0; d < dim; d += 64 / (int64_t)sizeof(ELEMENT)) __builtin_prefetch(next + d);
        }
        NAME(scores)(q, own, dim, weights + j, stride, heads, some);
    }
    float sums[4];
    for (int h = 0; h < heads; h++) {
        float *own = weights + h * stride, most = own[0], sum = 0;
        for (int64_t j = 1; j < count; j++) most = own[j] > most ? own[j] : most;
        for (int64_t j = 0; j < count; j++) own[j] = exponential(own[j] - most);
        V total = SPLAT(0.0f);
        int64_t j = 0;
        for (; j + WIDTH <= count; j += WIDTH) total += (V) * (const VU *)(own + j);
        for (int i = 0; i < WIDTH; i++) sum += total[i];
        for (; j < count; j++) sum += own[j];
        sums[h] = sum;
    }
    NAME(mix)(weights, stride, sums, values, rows, count, row_stride, dim, out, heads);
}

TARGET static void NAME(attend)(const Attention *call, int64_t sequence, int64_t head, float *scratch) {
    const int64_t dim = call->dim, width = call->kv_heads * dim, *bounds = call->bounds + sequence;
    const int64_t *rows = call->rows + bounds[0] + call->first[sequence];
    int64_t count = bounds[1] - bounds[0] - call->first[sequence], stride = call->stride;
    ELEMENT *keys = (ELEMENT *)call->keys + head * dim, *values = (ELEMENT *)call->values + head * dim;
    if (call->new_keys) { /* the sequence's own row, which no other reads */
        int64_t to = rows[count - 1] * width;
        memcpy(keys + to, (const ELEMENT *)call->new_keys + sequence * call->k_strides[0] + head * call->k_strides[1],
               (size_t)dim * sizeof(ELEMENT));
        memcpy(values + to,
               (const ELEMENT *)call->new_values + sequence * call->v_strides[0] + head * call->v_strides[1],
               (size_t)dim * sizeof(ELEMENT));
    }
    float *q = scratch + 4 * stride;
    const V scale = SPLAT(call->scale);
    for (int64_t h = 0; h < call->folded; h += 4) {
        int heads = call->folded - h < 4 ? (int)(call->folded - h) : 4;
        int64_t first = head * call->folded + h;
        for (int i = 0; i < heads; i++) {
            const ELEMENT *own = (const ELEMENT *)call->q + sequence * call->q_strides[0];
            own += (first + i) * call->q_strides[1];
            int64_t d = 0;
            for (; d + STEP <= dim; d += STEP) {
                V parts[PARTS];
                NAME(load)(own + d, parts);
                for (int p = 0; p < PARTS; p++) *(VU *)(q + i * dim + d + p * WIDTH) = (VU)(parts[p] * scale);
            }
            for (; d < dim; d++) q[i * dim + d] = NAME(number)(own + d) * call->scale;
        }
        ELEMENT *out = (ELEMENT *)call->out + (sequence * call->kv_heads * call->folded + first) * dim;
        switch (heads) {
        case 1: NAME(attend_heads)(q, keys, values, rows, count, width, dim, scratch, stride, out, 1); break;
        case 2: NAME(attend_heads)(q, keys, values, rows, count, width, dim, scratch, stride, out, 2); break;
        case 3: NAME(attend_heads)(q, keys, values, rows, count, width, dim, scratch, stride, out, 3); break;
        default: NAME(attend_heads)(q, keys, values, rows, count, width, dim, scratch, stride, out, 4);
        }
    }
}
