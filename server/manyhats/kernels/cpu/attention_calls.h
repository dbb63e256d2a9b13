/* Attention of single queries to rows of a cache: what decodes one token of each sequence. Included by kernels.c. */

static void attend_pieces(void *data) {
    Attention *call = data;
    int64_t pieces = call->sequences * call->kv_heads, i = fetch_next(&call->next);
    if (i >= pieces) return;
    float *scratch = call->scratch + fetch_next(&call->workers) * call->scratch_size;
    for (; i < pieces; i = fetch_next(&call->next)) call->kernels->attend(call, i / call->kv_heads, i % call->kv_heads, scratch);
}

static int attend_rows(Attention *call, const Rows *const *kernels, int64_t item, int32_t variant, int64_t cache_rows,
                       int32_t threads) {
    if (variant < 0 || variant >= VARIANTS || !kernels[variant]) return NO_SUCH_VARIANT;
    call->kernels = kernels[variant];
    if (!parallel || threads < 1) threads = 1;
    int64_t most = 0, total = 0;
    for (int64_t i = 0; i < call->sequences; i++) {
        int64_t count = call->bounds[i + 1] - call->bounds[i];
        if (call->first[i] < 0 || count <= call->first[i]) return OUT_OF_RANGE;
        for (int64_t j = call->bounds[i]; j < call->bounds[i + 1]; j++)
            if (call->rows[j] < 0 || call->rows[j] >= cache_rows) return OUT_OF_RANGE;
        most = count > most ? count : most;
        total += count;
    }
    double flops = 4.0 * (double)(total * call->dim * call->folded * call->kv_heads);
    double bytes = (double)(2 * item * total * call->dim * call->kv_heads);
    int64_t pieces = call->sequences * call->kv_heads;
    if (flops / FLOPS_A_NS + bytes / BYTES_A_NS < WORTH_THREADS || pieces < 2) threads = 1;
    call->stride = round_up(most, 16) + 16;
    call->scratch_size = 4 * call->stride + round_up(4 * call->dim, 16);
    call->scratch = aligned_alloc(64, (size_t)(threads * call->scratch_size) * sizeof(float));
    if (!call->scratch) return NO_MEMORY;
    call->next = call->workers = 0;
    if (threads > 1) parallel(attend_pieces, call, (unsigned)threads, 0);
    else attend_pieces(call);
    free(call->scratch);
    return OK;
}

#define ATTEND_ROWS(name, table, item)                                                                                 \
    EXPORT int32_t name(int32_t variant, const void *q, const void *new_keys, const void *new_values, void *keys,      \
                        void *values, void *out, const int64_t *strides, int64_t sequences, int64_t kv_heads,          \
                        int64_t folded, int64_t dim, float scale, const int64_t *rows, const int64_t *bounds,          \
                        const int64_t *first, int64_t cache_rows, int32_t threads) {                                   \
        Attention call = {.q = q, .new_keys = new_keys, .new_values = new_values, .keys = keys, .values = values,      \
                          .out = out, .q_strides = strides, .k_strides = strides + 2, .v_strides = strides + 4,        \
                          .sequences = sequences, .kv_heads = kv_heads, .folded = folded, .dim = dim, .scale = scale,  \
                          .rows = rows, .bounds = bounds, .first = first};                                             \
        return attend_rows(&call, table, item, variant, cache_rows, threads);                                       \
    }

/* out (sequences, kv_heads * folded, dim) = softmax(scale q keys^T) values. A sequence i attends to the rows
   rows[bounds[i] + first[i]] to rows[bounds[i + 1] - 1] of keys and values (cache_rows, kv_heads, dim). Its own key and
   value are written into the last of them before, where new_keys is not 0. `strides`: of q, new_keys and new_values,
   between sequences and between heads. */
ATTEND_ROWS(manyhats_attend_rows_f32, kernels_f32, 4)
ATTEND_ROWS(manyhats_attend_rows_bf16, kernels_bf16, 2)
