/* Activations of float32, written so that compilers turn loops over them into vectors. NaN stays NaN.

   The numbers are those of kernels/activations.py. */

#ifndef MANYHATS_ACTIVATIONS_H
#define MANYHATS_ACTIVATIONS_H

#include <stdint.h>

enum { NONE, RELU, GELU, GELU_TANH, TANH, SILU, SIGMOID, QUICK_GELU, LEAKY_RELU, RELU_SQUARED, RELU6,
       GELU_10, MISH, HARDSWISH, LAPLACE };

#define FORCED static inline __attribute__((always_inline))

FORCED float between(float x, float low, float high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

/* e^x, within 2 units in the last place. */
FORCED float exponential(float x) {
    x = between(x, -87.0f, 88.0f);
    float n = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: what is behind the point is rounded away */
    n -= 12582912.0f;
    float r = x - n * 0.693359375f;
    r += n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union { int32_t bits; float number; } power = {((int32_t)n + 127) << 23};
    return p * power.number;
}

/* Exactly 1 and -1 beyond a limit: what is left of either is multiplied by large numbers. */
FORCED float saturated(float y, float x, float limit) {
    y = x >= limit ? 1.0f : y;
    return x <= -limit ? -1.0f : y;
}

FORCED float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

/* A quotient of polynomials, within some units in the last place. */
FORCED float hyperbolic_tangent(float x) {
    float c = between(x, -7.90531110763549805f, 7.90531110763549805f), s = c * c;
    float p = -2.76076847742355e-16f;
    p = p * s + 2.00018790482477e-13f;
    p = p * s - 8.60467152213735e-11f;
    p = p * s + 5.12229709037114e-08f;
    p = p * s + 1.48572235717979e-05f;
    p = p * s + 6.37261928875436e-04f;
    p = p * s + 4.89352455891786e-03f;
    float q = 1.19825839466702e-06f;
    q = q * s + 1.18534705686654e-04f;
    q = q * s + 2.26843463243900e-03f;
    q = q * s + 4.89352518554385e-03f;
    float t = saturated(c * p / q, x, 7.90531110763549805f);
    return x < 0.0004f && x > -0.0004f ? x : t;
}

/* The same for the error function. */
FORCED float error_function(float x) {
    float c = between(x, -4.0f, 4.0f), s = c * c;
    float p = -2.72614225801306e-10f;
    p = p * s + 2.77068142495902e-08f;
    p = p * s - 2.10102402082508e-06f;
    p = p * s - 5.69250639462346e-05f;
    p = p * s - 7.34990630326855e-04f;
    p = p * s - 2.95459980854025e-03f;
    p = p * s - 1.60960333262415e-02f;
    float q = -1.45660718464996e-05f;
    q = q * s - 2.13374055278905e-04f;
    q = q * s - 1.68282697438203e-03f;
    q = q * s - 7.37332916720468e-03f;
    q = q * s - 1.42647390514189e-02f;
    return saturated(c * p / q, x, 4.0f);
}

FORCED float gelu(float x) { return 0.5f * x * (1.0f + error_function(x * 0.70710678118f)); }

/* x tanh(log(1 + e^x)) */
FORCED float mish(float x) {
    float e = exponential(x > 20.0f ? 20.0f : x), n = e * (e + 2.0f);
    return x * (n / (n + 2.0f));
}

FORCED void activate(int32_t which, float *values, int64_t count) {
#define EACH(expression)                                                                                               \
    for (int64_t i = 0; i < count; i++) {                                                                              \
        float x = values[i];                                                                                           \
        values[i] = (expression);                                                                                      \
    }                                                                                                                  \
    break
    switch (which) {
    case RELU: EACH(x < 0.0f ? 0.0f : x);
    case GELU: EACH(gelu(x));
    case GELU_TANH: EACH(0.5f * x * (1.0f + hyperbolic_tangent(0.79788456080f * (x + 0.044715f * x * x * x))));
    case TANH: EACH(hyperbolic_tangent(x));
    case SILU: EACH(x * sigmoid(x));
    case SIGMOID: EACH(sigmoid(x));
    case QUICK_GELU: EACH(x * sigmoid(1.702f * x));
    case LEAKY_RELU: EACH(x < 0.0f ? 0.01f * x : x);
    case RELU_SQUARED: EACH(x < 0.0f ? 0.0f : x * x);
    case RELU6: EACH(between(x, 0.0f, 6.0f));
    case GELU_10: EACH(between(gelu(x), -10.0f, 10.0f));
    case MISH: EACH(mish(x));
    case HARDSWISH: EACH(x * between(x + 3.0f, 0.0f, 6.0f) * (1.0f / 6.0f));
    case LAPLACE: EACH(0.5f * (1.0f + error_function((x - 0.707107f) * (1.0f / (0.282095f * 1.41421356f)))));
    default: break;
    }
#undef EACH
}

#endif
