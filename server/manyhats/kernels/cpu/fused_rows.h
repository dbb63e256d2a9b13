/* Several operations on a row at once: the loops over the rows of a tile. Part of rows.h, with its names. */

/* y = norm(f + x) gain + offset. The sum is rounded where torch does. `scratch`: a row of float32. */
static TARGET void NAME(add_norm)(const Call *call, const Tile *tile, float *scratch) {
    const int64_t out = call->out, whole = out / STEP * STEP;
    const ELEMENT *gain = call->gain, *offset = call->offset;
    for (int64_t i = tile->row; i < tile->row + tile->rows; i++) {
        const ELEMENT *f = (const ELEMENT *)call->f + i * call->f_stride, *x = (const ELEMENT *)call->x + i * call->x_stride;
        ELEMENT *y = (ELEMENT *)call->y + i * call->y_stride;
        V sum = SPLAT(0.0f), squares = SPLAT(0.0f);
        float total = 0.0f;
        for (int64_t c = 0; c < whole; c += STEP) {
            V own[PARTS], other[PARTS];
            NAME(load)(f + c, own);
            NAME(load)(x + c, other);
            for (int p = 0; p < PARTS; p++) own[p] += other[p];
#if PARTS == 2
            ELEMENT rounded[STEP];
            NAME(store)(rounded, own);
            NAME(load)(rounded, own);
#endif
            for (int p = 0; p < PARTS; p++) {
                *(VU *)(scratch + c + p * WIDTH) = (VU)own[p];
                sum += own[p];
            }
        }
        for (int64_t c = whole; c < out; c++) {
            scratch[c] = NAME(number)(f + c) + NAME(number)(x + c);
#if PARTS == 2
            scratch[c] = round_bf16(scratch[c]);
#endif
            total += scratch[c];
        }
        for (int lane = 0; lane < WIDTH; lane++) total += sum[lane];
        const float mean = total / (float)out;
        const V center = SPLAT(mean);
        total = 0.0f;
        for (int64_t c = 0; c < whole; c += WIDTH) {
            V own = (V) * (const VU *)(scratch + c) - center;
            squares += own * own;
        }
        for (int64_t c = whole; c < out; c++) total += (scratch[c] - mean) * (scratch[c] - mean);
        for (int lane = 0; lane < WIDTH; lane++) total += squares[lane];
        const float factor = 1.0f / sqrtf(total / (float)out + call->epsilon);
        const V scale = SPLAT(factor);
        for (int64_t c = 0; c < whole; c += STEP) {
            V now[PARTS];
            for (int p = 0; p < PARTS; p++) now[p] = ((V) * (const VU *)(scratch + c + p * WIDTH) - center) * scale;
            NAME(store_scaled)(y, now, gain, offset, c);
        }
        for (int64_t c = whole; c < out; c++) {
            NAME(store_scaled_number)(y, (scratch[c] - mean) * factor, gain, offset, c);
        }
    }
}

/* A fusion's weights: x has the low states of the members (`in`), what each is multiplied by, and what is added to each
   logit; y gets the activated low states, weighted, and the weights. `scratch`: 2 * in + members numbers. */
static TARGET void NAME(weigh)(const Call *call, const Tile *tile, float *scratch) {
    const int64_t size = call->in, members = call->members, width = size / members;
    float *acted = scratch, *factors = acted + size, *weights = factors + size;
    for (int64_t i = tile->row; i < tile->row + tile->rows; i++) {
        const ELEMENT *x = (const ELEMENT *)call->x + i * call->x_stride;
        ELEMENT *y = (ELEMENT *)call->y + i * call->y_stride;
        for (int64_t j = 0; j < 2 * size; j++) acted[j] = NAME(number)(x + j);
        activate(call->activation, acted, size);
        float most = 0.0f, total = 0.0f;
        for (int64_t m = 0; m < members; m++) {
            const float *a = acted + m * width, *b = factors + m * width;
            V sum = SPLAT(0.0f);
            int64_t j = 0;
            float logit = NAME(number)(x + 2 * size + m);
            for (; j + WIDTH <= width; j += WIDTH) sum += (V) * (const VU *)(a + j) * (V) * (const VU *)(b + j);
            for (; j < width; j++) logit += a[j] * b[j];
            for (int lane = 0; lane < WIDTH; lane++) logit += sum[lane];
            weights[m] = logit;
            most = m == 0 || logit > most ? logit : most;
        }
        for (int64_t m = 0; m < members; m++) {
            weights[m] = exponential(weights[m] - most);
            total += weights[m];
        }
        for (int64_t m = 0; m < members; m++) {
            const float weight = weights[m] / total;
            for (int64_t j = m * width; j < (m + 1) * width; j++) NAME(store_number)(y + j, acted[j] * weight);
            NAME(store_number)(y + size + m, weight);
        }
    }
}
