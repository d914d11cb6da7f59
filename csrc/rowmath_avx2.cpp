// The AVX2 path: the loops of rowmath.cpp with four lanes to a register. Target attributes instead of
// compiler flags, so that nothing else in this file may use an instruction the machine lacks. No FMA: see
// rowmath.hpp.
#if defined(__x86_64__)
#include "rowmath.hpp"

#include <immintrin.h>

#define LEARNALIGN_AVX2 __attribute__((target("avx2,f16c")))

namespace learnalign {
namespace {

LEARNALIGN_AVX2 inline __m256d load4(const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    return _mm256_cvtepi32_pd(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(four)));
}
LEARNALIGN_AVX2 inline __m256d load4(const Half* x) {
    return _mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x))));
}
LEARNALIGN_AVX2 inline __m256d load4(const float* x) {
    return _mm256_cvtps_pd(_mm_loadu_ps(x));
}
LEARNALIGN_AVX2 inline __m256d load4(const double* x) {
    return _mm256_loadu_pd(x);
}

inline double load(int8_t x) {
    return x;
}
inline double load(Half x) {
    return half_to_float(x);
}
inline double load(float x) {
    return x;
}
inline double load(double x) {
    return x;
}

LEARNALIGN_AVX2 inline __m256d multiply_add(__m256d a, __m256d b, __m256d c) {
    return _mm256_add_pd(c, _mm256_mul_pd(a, b));
}

struct Lanes {
    __m256d a, b, c, d;
};

LEARNALIGN_AVX2 inline void store_lanes(const Lanes& sum, double* lane) {
    _mm256_storeu_pd(lane, sum.a);
    _mm256_storeu_pd(lane + 4, sum.b);
    _mm256_storeu_pd(lane + 8, sum.c);
    _mm256_storeu_pd(lane + 12, sum.d);
}

template <class T>
LEARNALIGN_AVX2 double sum_squares(const void* row, int64_t d) {
    const T* x = static_cast<const T*>(row);
    const __m256d zero = _mm256_setzero_pd();
    Lanes sum = {zero, zero, zero, zero};
    int64_t k = 0;
    for (; k + lanes <= d; k += lanes) {
        const __m256d xa = load4(x + k), xb = load4(x + k + 4), xc = load4(x + k + 8), xd = load4(x + k + 12);
        sum.a = multiply_add(xa, xa, sum.a);
        sum.b = multiply_add(xb, xb, sum.b);
        sum.c = multiply_add(xc, xc, sum.c);
        sum.d = multiply_add(xd, xd, sum.d);
    }
    double lane[lanes];
    store_lanes(sum, lane);
    for (int l = 0; k + l < d; ++l) lane[l] += load(x[k + l]) * load(x[k + l]);
    return add_lanes(lane);
}

template <class T>
LEARNALIGN_AVX2 double dot(const void* row, const double* other, int64_t d) {
    const T* x = static_cast<const T*>(row);
    const __m256d zero = _mm256_setzero_pd();
    Lanes sum = {zero, zero, zero, zero};
    int64_t k = 0;
    for (; k + lanes <= d; k += lanes) {
        sum.a = multiply_add(load4(x + k), _mm256_loadu_pd(other + k), sum.a);
        sum.b = multiply_add(load4(x + k + 4), _mm256_loadu_pd(other + k + 4), sum.b);
        sum.c = multiply_add(load4(x + k + 8), _mm256_loadu_pd(other + k + 8), sum.c);
        sum.d = multiply_add(load4(x + k + 12), _mm256_loadu_pd(other + k + 12), sum.d);
    }
    double lane[lanes];
    store_lanes(sum, lane);
    for (int l = 0; k + l < d; ++l) lane[l] += load(x[k + l]) * other[k + l];
    return add_lanes(lane);
}

template <class T>
LEARNALIGN_AVX2 void add_scaled(const void* row, double weight, double* total, int64_t d) {
    const T* x = static_cast<const T*>(row);
    const __m256d w = _mm256_set1_pd(weight);
    int64_t k = 0;
    for (; k + 4 <= d; k += 4) {
        _mm256_storeu_pd(total + k, multiply_add(w, load4(x + k), _mm256_loadu_pd(total + k)));
    }
    for (; k < d; ++k) total[k] += weight * load(x[k]);
}

template <class T>
constexpr RowMath table = {sum_squares<T>, dot<T>, add_scaled<T>};

}  // namespace

const RowMath& row_math_avx2(Dtype dtype) {
    switch (dtype) {
        case Dtype::int8:
            return table<int8_t>;
        case Dtype::float16:
            return table<Half>;
        case Dtype::float32:
            return table<float>;
        case Dtype::float64:
            break;
    }
    return table<double>;
}

LEARNALIGN_AVX2 void scale_to_half_avx2(const float* row, double factor, Half* out, int64_t d) {
    const __m256d f = _mm256_set1_pd(factor);
    int64_t k = 0;
    for (; k + 4 <= d; k += 4) {
        const __m128 scaled = _mm256_cvtpd_ps(_mm256_mul_pd(load4(row + k), f));
        const __m128i half = _mm_cvtps_ph(scaled, _MM_FROUND_TO_NEAREST_INT);
        _mm_storel_epi64(reinterpret_cast<__m128i*>(out + k), half);
    }
    for (; k < d; ++k) out[k] = float_to_half(static_cast<float>(row[k] * factor));
}

}  // namespace learnalign
#endif
