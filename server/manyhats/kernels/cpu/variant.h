/* One instruction set's loops, for both types. Defined outside: VARIANT, TARGET, WIDTH (float32 of a vector), HAS_BF16
   (whether it rounds to bfloat16 itself). No include guard: kernels.c includes it once for each variant. */

#define INLINE static inline __attribute__((always_inline)) TARGET

#define V JOIN(floats, VARIANT)
#define VU JOIN(loose_floats, VARIANT)
#define B JOIN(words, VARIANT)
#define BU JOIN(loose_words, VARIANT)
typedef float V __attribute__((vector_size(4 * WIDTH)));
typedef float VU __attribute__((vector_size(4 * WIDTH), aligned(2), may_alias));
typedef uint32_t B __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t BU __attribute__((vector_size(4 * WIDTH), aligned(2), may_alias));

/* A vector with the same number in each lane. */
INLINE V JOIN(splat, VARIANT)(float number) {
#if WIDTH == 16
    return (V)_mm512_set1_ps(number);
#elif WIDTH == 8
    return (V)_mm256_set1_ps(number);
#else
    return (V){number, number, number, number};
#endif
}

/* The sums over four vectors. */
INLINE void JOIN(sum4, VARIANT)(const V *v, float *sums) {
#if WIDTH >= 8
#if WIDTH == 16
    __m256 h[4];
    for (int i = 0; i < 4; i++)
        h[i] = _mm256_add_ps(_mm512_castps512_ps256((__m512)v[i]), _mm512_extractf32x8_ps((__m512)v[i], 1));
    __m256 a = h[0], b = h[1], c = h[2], d = h[3];
#else
    __m256 a = (__m256)v[0], b = (__m256)v[1], c = (__m256)v[2], d = (__m256)v[3];
#endif
    __m256 t = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1)));
#else
    for (int i = 0; i < 4; i++) sums[i] = (v[i][0] + v[i][2]) + (v[i][1] + v[i][3]);
#endif
}

/* The sums over 4 * count vectors, count up to 4: one number each, in their order. Every sum is added up alike. */
INLINE void JOIN(sums_of, VARIANT)(const V *v, const int count, float *sums) {
#if WIDTH == 16
/* The sums of the halves of a and of b, beside each other: of pairs of numbers, or of lanes. */
#define FOLD2(a, b) _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, a, b), _mm512_shuffle_ps(a, b, 0x4e))
#define FOLD1(a, b) _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd))
#define FOLD_LANES(a, b) _mm512_add_ps(_mm512_mask_blend_ps(0xff00, a, b), _mm512_shuffle_f32x4(a, b, 0x4e))
    __m512 lanes[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        if (i >= count) {
            lanes[i] = _mm512_setzero_ps();
            continue;
        }
        __m512 a = FOLD2((__m512)v[4 * i], (__m512)v[4 * i + 1]), b = FOLD2((__m512)v[4 * i + 2], (__m512)v[4 * i + 3]);
        lanes[i] = FOLD1(a, b);
    }
    if (count <= 1) {
        __m512 one = _mm512_add_ps(lanes[0], _mm512_shuffle_f32x4(lanes[0], lanes[0], 0x4e));
        one = _mm512_add_ps(one, _mm512_shuffle_f32x4(one, one, 0xb1));
        _mm_storeu_ps(sums, _mm512_castps512_ps128(one));
        return;
    }
    __m512 a = FOLD_LANES(lanes[0], lanes[1]), b = count > 2 ? FOLD_LANES(lanes[2], lanes[3]) : a;
    a = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    if (count == 4) _mm512_storeu_ps(sums, a);
    else _mm512_mask_storeu_ps(sums, (__mmask16)((1u << 4 * count) - 1), a);
#undef FOLD2
#undef FOLD1
#undef FOLD_LANES
#else
    for (int i = 0; i < count; i++) JOIN(sum4, VARIANT)(v + 4 * i, sums + 4 * i);
#endif
}

#include "dots.h"

#define TYPE f32
#define ELEMENT float
#define PARTS 1
#include "rows.h"

#define TYPE bf16
#define ELEMENT uint16_t
#define PARTS 2
#include "rows.h"

#undef INLINE
#undef V
#undef VU
#undef B
#undef BU
#undef VARIANT
#undef TARGET
#undef WIDTH
#undef HAS_BF16
