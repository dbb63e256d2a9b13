/* Whole weights in bfloat16 with AMX, whose tiles multiply 16 outputs of a weight with 16 rows of x, 32 inputs at a
   time. A weight's tiles are unpacked under the mask as they are; x is packed once a call: 16 rows beside each other,
   in pairs of inputs. One row's sums do not depend on the other rows of its block. */

#include <sys/syscall.h>
#include <unistd.h>

#define AMX_TARGET                                                                                                     \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,amx-tile,amx-bf16")))
#define AMX_INLINE static inline __attribute__((always_inline)) AMX_TARGET
#define AMX_ROWS 16    /* of x in a tile */
#define AMX_OUTPUTS 32 /* of a weight in two tiles */
#define AMX_INPUTS 32
#define AMX_AHEAD 2 /* steps that a weight is unpacked ahead of its use */

/* The instructions' functions do not tell the compiler that they read and write memory. */
#define AMX_BARRIER __asm__ volatile("" ::: "memory")

/* Asks Linux for the registers, which it gives to a process once and for all. */
static int amx_allowed(void) {
#if defined(__linux__) && defined(SYS_arch_prctl)
    return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XFEATURE_XTILEDATA */) == 0;
#else
    return 0;
#endif
}

/* Transposes 16 vectors of 16 words. */
AMX_INLINE void transpose(__m512i *v) {
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        v[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        v[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

/* The first `count` of 32 bits; all where there are more. */
AMX_INLINE __mmask32 first_of(int64_t count) { return count >= 32 ? ~0u : (1u << count) - 1; }

/* Packs the rows of a tile, in blocks of 16, to where they have their place in `wide`. */
static AMX_TARGET void widen_amx(const Call *call, const Tile *tile) {
    const int64_t steps = call->wide_stride / AMX_INPUTS;
    uint16_t *to = (uint16_t *)call->wide + tile->place * call->wide_stride;
    for (int64_t row = 0; row < tile->rows; row += AMX_ROWS)
        for (int64_t k = 0; k < steps; k++, to += AMX_ROWS * AMX_INPUTS) {
            const uint16_t *x = (const uint16_t *)call->x + (tile->row + row) * call->x_stride + k * AMX_INPUTS;
            const __mmask32 inputs = first_of(call->in - k * AMX_INPUTS);
            __m512i v[16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                v[i] = row + i < tile->rows ? _mm512_maskz_loadu_epi16(inputs, x + i * call->x_stride)
                                            : _mm512_setzero_si512();
            transpose(v);
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++) _mm512_store_si512(to + i * AMX_INPUTS, v[i]);
        }
}

/* Writes two tiles of a layer, the inputs from k on of the outputs c to c + 32. */
AMX_INLINE void unpack_tiles(const Layer *layer, int64_t in, int64_t c, int64_t outputs, int64_t k, uint16_t *to) {
    const int64_t count = in - k < AMX_INPUTS ? in - k : AMX_INPUTS;
    const uint16_t *from = (const uint16_t *)layer->weight + c * in + k;
    if (count == AMX_INPUTS && in % 8 == 0 && layer->bits && outputs == AMX_OUTPUTS) {
        const uint8_t *bits = layer->bits + ((c * in + k) >> 3);
#pragma GCC unroll 4
        for (int64_t j = 0; j < AMX_OUTPUTS; j++) {
            uint32_t kept;
            memcpy(&kept, bits + j * (in >> 3), sizeof kept);
            _mm512_store_si512(to + j * AMX_INPUTS, _mm512_maskz_loadu_epi16(kept, from + j * in));
        }
        return;
    }
    const __mmask32 inputs = first_of(count);
    for (int64_t j = 0; j < AMX_OUTPUTS; j++) {
        __mmask32 kept = j < outputs ? inputs : 0;
        if (layer->bits && kept) kept &= bits_at_avx512_bf16_bf16(layer->bits, (c + j) * in + k, (int)count);
        _mm512_store_si512(to + j * AMX_INPUTS, _mm512_maskz_loadu_epi16(kept, from + j * in));
    }
}

/* Writes the sums of two tiles, 32 outputs of up to 16 rows, to y. */
AMX_INLINE void store_sums(const float *sums, uint16_t *y, int64_t y_stride, int64_t rows, __mmask32 outputs) {
    __m512i v[16];
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) {
        __m512 even = _mm512_load_ps(sums + 32 * j), odd = _mm512_load_ps(sums + 32 * j + 16);
        v[j] = _mm512_permutexvar_epi16(INTERLEAVE, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
    }
    transpose(v);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        if (i < rows) _mm512_mask_storeu_epi16(y + i * y_stride, outputs, v[i]);
}

/* y[:, c0:c1] = x (weight * bits)^T + bias for the rows of a tile. `scratch`: of this thread, for two tiles' outputs
   with all inputs, and for sums and biases. */
static AMX_TARGET void dense_amx(const Call *call, const Tile *tile, int64_t c0, int64_t c1, float *scratch) {
    static const struct {
        uint8_t palette, start, zeros[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config __attribute__((aligned(64))) = {
        1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    const Layer layer = layer_of(call, tile->slot);
    const uint16_t *own_bias = layer.bias;
    const int64_t in = call->in, steps = call->wide_stride / AMX_INPUTS, pair = AMX_OUTPUTS * AMX_INPUTS;
    const int64_t block = AMX_ROWS * call->wide_stride;
    const uint16_t *x = (const uint16_t *)call->wide + tile->place * call->wide_stride;
    float *sums = scratch, *bias = sums + 2 * 512;
    uint16_t *weights = (uint16_t *)(bias + 512);
    if (c1 > layer.out) c1 = layer.out;
    if (c0 >= c1) return;
    _tile_loadconfig(&config);
    for (int64_t c = c0; c < c1; c += AMX_OUTPUTS) {
        const int64_t outputs = c1 - c < AMX_OUTPUTS ? c1 - c : AMX_OUTPUTS;
        for (int64_t j = 0; j < AMX_OUTPUTS; j++)
            _mm512_store_ps(bias + 16 * j, _mm512_set1_ps(own_bias && j < outputs ? from_bf16(own_bias[c + j]) : 0.0f));
        for (int64_t k = 0; k < steps && k < AMX_AHEAD; k++)
            unpack_tiles(&layer, in, c, outputs, k * AMX_INPUTS, weights + k * pair);
        for (int64_t row = 0; row < tile->rows; row += 2 * AMX_ROWS) {
            const uint16_t *first = x + row / AMX_ROWS * block, *second = first + block;
            const int two = row + AMX_ROWS < tile->rows;
            AMX_BARRIER;
            _tile_loadd(0, bias, 64);
            _tile_loadd(1, bias + 256, 64);
            if (two) {
                _tile_loadd(2, bias, 64);
                _tile_loadd(3, bias + 256, 64);
            }
            for (int64_t k = 0; k < steps; k++) {
                const uint16_t *weight = weights + k * pair;
                const int64_t next = k + AMX_AHEAD;
                if (row == 0 && next < steps) {
                    unpack_tiles(&layer, in, c, outputs, next * AMX_INPUTS, weights + next * pair);
                    AMX_BARRIER;
                }
                _tile_loadd(4, weight, 64);
                _tile_loadd(6, first + k * 512, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(5, weight + 512, 64);
                _tile_dpbf16ps(1, 5, 6);
                if (two) {
                    _tile_loadd(7, second + k * 512, 64);
                    _tile_dpbf16ps(2, 4, 7);
                    _tile_dpbf16ps(3, 5, 7);
                }
            }
            _tile_stored(0, sums, 64);
            _tile_stored(1, sums + 256, 64);
            if (two) {
                _tile_stored(2, sums + 512, 64);
                _tile_stored(3, sums + 768, 64);
            }
            AMX_BARRIER;
            uint16_t *y = (uint16_t *)call->y + (tile->row + row) * call->y_stride + c;
            const int64_t rows = tile->rows - row;
            store_sums(sums, y, call->y_stride, rows < 16 ? rows : 16, first_of(outputs));
            if (two)
                store_sums(sums + 512, y + 16 * call->y_stride, call->y_stride, rows < 32 ? rows - 16 : 16,
                           first_of(outputs));
        }
    }
    _tile_release();
}

static const Rows rows_amx_bf16 = {
    down_avx512_bf16_bf16, up_avx512_bf16_bf16,     scale_add_avx512_bf16_bf16, linear_avx512_bf16_bf16,
    sparse_avx512_bf16_bf16, widen_amx,             dense_amx,                  add_norm_avx512_bf16_bf16,
    weigh_avx512_bf16_bf16, attend_avx512_bf16_bf16, 1};
