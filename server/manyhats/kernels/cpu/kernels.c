/* The operations of kernels/base.py on the CPU, with a C interface: addresses, and sizes and strides in elements.

   One build supports all processors and all versions of torch: the loops of rows.h are compiled once for each
   instruction set (a "variant"), and the caller chooses the variant. The library runs on the threads of torch's own
   OpenMP runtime, whose GOMP_parallel the caller passes as a pointer: a second runtime in the process would make both
   slow. */

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#include <math.h>

#include "activations.h"
#include "call.h"
#include "threads.h"

/* The version of the exported functions and their structs; library.py expects the same number. */
#define ABI 5

enum { BASELINE, AVX2, AVX512, AVX512_BF16, AMX, VARIANTS };

#define VARIANT baseline
#define TARGET
#define WIDTH 4
#define HAS_BF16 0
#include "variant.h"

#if defined(__x86_64__)
/* The words 0, 16, 1, 17 and so on: the two halves interleaved. */
#define PAIR(i) ((i) | ((i) + 16) << 16)
#define INTERLEAVE                                                                                                     \
    _mm512_setr_epi32(PAIR(0), PAIR(1), PAIR(2), PAIR(3), PAIR(4), PAIR(5), PAIR(6), PAIR(7), PAIR(8), PAIR(9),        \
                      PAIR(10), PAIR(11), PAIR(12), PAIR(13), PAIR(14), PAIR(15))

#define VARIANT avx2
#define TARGET __attribute__((target("avx2,fma")))
#define WIDTH 8
#define HAS_BF16 0
#include "variant.h"

#define VARIANT avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define WIDTH 16
#define HAS_BF16 0
#include "variant.h"

/* Of the bfloat16 instructions only the conversions are used: products of pairs (vdpbf16ps) take longer than the two
   multiplications that they replace on processors that run two of those at a time. float32 would gain nothing. */
#define VARIANT avx512_bf16
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")))
#define WIDTH 16
#define HAS_BF16 1
#include "variant.h"

#if defined(__has_include)
#if __has_include(<amxbf16intrin.h>)
#define HAS_AMX
#include "amx.h"
#endif
#endif
#endif

static const Rows *const kernels_f32[VARIANTS] = {
    &rows_baseline_f32,
#if defined(__x86_64__)
    &rows_avx2_f32, &rows_avx512_f32, &rows_avx512_f32, &rows_avx512_f32,
#endif
};
static const Rows *const kernels_bf16[VARIANTS] = {
    &rows_baseline_bf16,
#if defined(__x86_64__)
    &rows_avx2_bf16, &rows_avx512_bf16, &rows_avx512_bf16_bf16,
#endif
#if defined(HAS_AMX)
    &rows_amx_bf16,
#endif
};

EXPORT int32_t manyhats_abi(void) { return ABI; }

#if defined(__x86_64__)
/* __builtin_cpu_supports is not used because not every compiler's runtime has the function that it calls. */
static int32_t best_variant(void) {
    const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    unsigned a, b, c, d, features, saved, more;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 27) || !(c & 1u << 12)) return BASELINE; /* OSXSAVE, FMA */
    __asm__("xgetbv" : "=a"(saved), "=d"(d) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &features, &c, &d)) return BASELINE;
    if (!(features & 1u << 5) || (saved & 0x06) != 0x06) return BASELINE; /* the operating system saves the registers */
    if ((features & avx512) != avx512 || (saved & 0xe6) != 0xe6) return AVX2;
    if (!__get_cpuid_count(7, 1, &more, &b, &c, &d)) return AVX512;
    if (!(more & 1u << 5)) return AVX512;
#if defined(HAS_AMX)
    const unsigned amx = 1u << 22 | 1u << 24; /* BF16, TILE */
    __get_cpuid_count(7, 0, &a, &b, &c, &d);
    if ((d & amx) == amx && (saved & 0x60000) == 0x60000 && amx_allowed()) return AMX;
#endif
    return AVX512_BF16;
}
#else
static int32_t best_variant(void) { return BASELINE; }
#endif

/* The best variant that the processor and the operating system support; all lower ones are supported too. */
EXPORT int32_t manyhats_best_variant(void) { return best_variant(); }

/* The functions of the operations. */
#include "attention_calls.h"
#include "dense.h"
#include "fused.h"
#include "linear.h"
#include "low_rank.h"
#include "scale_add.h"
#include "sparse.h"
