// The AVX2 path: the loops of rowmath.cpp with four lanes to a register. Target attributes instead of
// compiler flags, so that nothing else in this file may use an instruction the machine lacks. FMA only
// where the product is exact, see rowmath.hpp.
#if defined(__x86_64__)
#include "rowmath.hpp"

#include <immintrin.h>

#include <type_traits>

#define LEARNALIGN_AVX2 __attribute__((target("avx2,fma,f16c")))

namespace learnalign {
namespace {

LEARNALIGN_AVX2 inline __m256d load4(const float* x) {
    return _mm256_cvtps_pd(_mm_loadu_ps(x));
}
LEARNALIGN_AVX2 inline __m256d load4(const double* x) {
    return _mm256_loadu_pd(x);
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
LEARNALIGN_AVX2 inline Lanes load_lanes(const T* x) {
    return {load4(x), load4(x + 4), load4(x + 8), load4(x + 12)};
}

// The numbers from k on; halves by way of `wide`: a conversion that reads memory costs half of one that
// widens a register.
template <class T>
LEARNALIGN_AVX2 inline Lanes widened_lanes(const T* x, int64_t k, float*) {
    return load_lanes(x + k);
}
LEARNALIGN_AVX2 inline Lanes widened_lanes(const Half* x, int64_t k, float* wide) {
    const auto* halves = reinterpret_cast<const __m128i*>(x + k);
    _mm256_storeu_ps(wide + k, _mm256_cvtph_ps(_mm_loadu_si128(halves)));
    _mm256_storeu_ps(wide + k + 8, _mm256_cvtph_ps(_mm_loadu_si128(halves + 1)));
    return load_lanes(wide + k);
}

// sum += x * y; in one step where the products are exact.
template <bool exact>
LEARNALIGN_AVX2 inline void add_products(const Lanes& x, const Lanes& y, Lanes& sum) {
    if constexpr (exact) {
        sum.a = _mm256_fmadd_pd(x.a, y.a, sum.a);
        sum.b = _mm256_fmadd_pd(x.b, y.b, sum.b);
        sum.c = _mm256_fmadd_pd(x.c, y.c, sum.c);
        sum.d = _mm256_fmadd_pd(x.d, y.d, sum.d);
    } else {
        sum.a = _mm256_add_pd(sum.a, _mm256_mul_pd(x.a, y.a));
        sum.b = _mm256_add_pd(sum.b, _mm256_mul_pd(x.b, y.b));
        sum.c = _mm256_add_pd(sum.c, _mm256_mul_pd(x.c, y.c));
        sum.d = _mm256_add_pd(sum.d, _mm256_mul_pd(x.d, y.d));
    }
}

LEARNALIGN_AVX2 inline void fetch(const void* where) {
    _mm_prefetch(static_cast<const char*>(where), _MM_HINT_T1);
}

// Squares of what fits in half the digits of a float64 are exact.
template <class T>
LEARNALIGN_AVX2 double measure(const void* row, int64_t d, float* wide, const void* next) {
    const T* x = static_cast<const T*>(row);
    const auto* ahead = static_cast<const char*>(next);
    constexpr int64_t fetch_every = 256 / sizeof(T);
    const __m256d zero = _mm256_setzero_pd();
    Lanes sum = {zero, zero, zero, zero};
    int64_t k = 0;
    for (; k + lanes <= d; k += lanes) {
        if (k % fetch_every == 0) fetch(ahead + k / fetch_every * 64);
        const Lanes xs = widened_lanes(x, k, wide);
        add_products<(sizeof(T) < sizeof(double))>(xs, xs, sum);
    }
    double lane[lanes];
    store_lanes(sum, lane);
    for (int l = 0; k + l < d; ++l) {
        const double last = load(x[k + l]);
        if constexpr (std::is_same_v<T, Half>) wide[k + l] = static_cast<float>(last);
        lane[l] += last * last;
    }
    return add_lanes(lane);
}

// Sixteen halves as float64 times 2^-1008, by moving bits: sign, exponent and significand of a half stand in
// the upper 32 bits of a float64 once they are shifted there, and only the offset of the exponent differs,
// for subnormal halves too. It takes half the time of two conversions. In the order that unpacking leaves: 0
// 1 8 9, 2 3 10 11, 4 5 12 13, 6 7 14 15.
constexpr double moved_back = 0x1p1008;

LEARNALIGN_AVX2 inline Lanes moved_lanes(const Half* x) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)),
                  zero = _mm256_setzero_si256();
    const __m256i upper = _mm256_and_si256(_mm256_srai_epi16(half, 6), _mm256_set1_epi16(int16_t(0x81ff)));
    const __m256i lower = _mm256_slli_epi16(half, 10);
    const __m256i a = _mm256_unpacklo_epi16(lower, upper), b = _mm256_unpackhi_epi16(lower, upper);
    return {_mm256_castsi256_pd(_mm256_unpacklo_epi32(zero, a)),
            _mm256_castsi256_pd(_mm256_unpackhi_epi32(zero, a)),
            _mm256_castsi256_pd(_mm256_unpacklo_epi32(zero, b)),
            _mm256_castsi256_pd(_mm256_unpackhi_epi32(zero, b))};
}

// Sixteen float64 in that order, and back.
LEARNALIGN_AVX2 inline __m256d load_two(const double* x) {
    return _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(x)), _mm_loadu_pd(x + 8), 1);
}
LEARNALIGN_AVX2 inline void store_two(__m256d two, double* x) {
    _mm_storeu_pd(x, _mm256_castpd256_pd128(two));
    _mm_storeu_pd(x + 8, _mm256_extractf128_pd(two, 1));
}
LEARNALIGN_AVX2 inline Lanes load_moved(const double* x) {
    return {load_two(x), load_two(x + 2), load_two(x + 4), load_two(x + 6)};
}
LEARNALIGN_AVX2 inline void store_moved(const Lanes& sum, double* x) {
    store_two(sum.a, x);
    store_two(sum.b, x + 2);
    store_two(sum.c, x + 4);
    store_two(sum.d, x + 6);
}

template <class T>
LEARNALIGN_AVX2 void dot_two(const void* a, const void* b, const Direction& direction, int64_t d,
                             int64_t ahead, double* out) {
    const T *x = static_cast<const T*>(a), *y = static_cast<const T*>(b);
    const double* m = direction.values.data();
    const __m256d zero = _mm256_setzero_pd();
    Lanes sum_x = {zero, zero, zero, zero}, sum_y = sum_x;
    int64_t k = 0;
    for (; k + lanes <= d; k += lanes) {
        fetch(reinterpret_cast<const char*>(x + k) + ahead);
        fetch(reinterpret_cast<const char*>(y + k) + ahead);
        const Lanes ms = load_lanes(m + k), xs = load_lanes(x + k), ys = load_lanes(y + k);
        add_products<false>(xs, ms, sum_x);
        add_products<false>(ys, ms, sum_y);
    }
    double lane_x[lanes], lane_y[lanes];
    store_lanes(sum_x, lane_x);
    store_lanes(sum_y, lane_y);
    for (int l = 0; k + l < d; ++l) {
        lane_x[l] += load(x[k + l]) * m[k + l];
        lane_y[l] += load(y[k + l]) * m[k + l];
    }
    out[0] = add_lanes(lane_x);
    out[1] = add_lanes(lane_y);
}

LEARNALIGN_AVX2 void dot_two_half(const void* a, const void* b, const Direction& direction, int64_t d,
                                  int64_t ahead, double* out) {
    const Half *x = static_cast<const Half*>(a), *y = static_cast<const Half*>(b);
    const double* m = direction.values.data();
    const __m256d zero = _mm256_setzero_pd(), back = _mm256_set1_pd(moved_back);
    Lanes sum_x = {zero, zero, zero, zero}, sum_y = sum_x;
    int64_t k = 0;
    for (; k + lanes <= d; k += lanes) {
        if (k % 32 == 0) {
            fetch(reinterpret_cast<const char*>(x + k) + ahead);
            fetch(reinterpret_cast<const char*>(y + k) + ahead);
        }
        Lanes ms = load_moved(m + k);
        ms = {_mm256_mul_pd(ms.a, back), _mm256_mul_pd(ms.b, back), _mm256_mul_pd(ms.c, back),
              _mm256_mul_pd(ms.d, back)};
        add_products<true>(moved_lanes(x + k), ms, sum_x);
        add_products<true>(moved_lanes(y + k), ms, sum_y);
    }
    double lane_x[lanes], lane_y[lanes];
    store_moved(sum_x, lane_x);
    store_moved(sum_y, lane_y);
    for (int l = 0; k + l < d; ++l) {
        lane_x[l] += load(x[k + l]) * m[k + l];
        lane_y[l] += load(y[k + l]) * m[k + l];
    }
    out[0] = add_lanes(lane_x);
    out[1] = add_lanes(lane_y);
}

// Rows of T, widened ones if T is not Stored.
template <class Stored, class T>
LEARNALIGN_AVX2 void add_rows(const void* const* rows, const double* weights, RowSum& sum, int64_t d,
                              const void* next) {
    constexpr bool exact = std::is_same_v<Stored, Half>;  // 42 + 11 bits
    constexpr int columns = 2 * lanes, lines = columns * sizeof(Stored) * group_rows * 3 / 4 / 64;
    double* total = sum.total.data();
    const auto* ahead = static_cast<const char*>(next);
    int64_t k = 0;
    for (; k + columns <= d; k += columns, ahead += 64 * lines) {
        for (int line = 0; line < lines; ++line) fetch(ahead + 64 * line);
        Lanes left = load_lanes(total + k), right = load_lanes(total + k + lanes);
#pragma GCC unroll 1
        for (int r = 0; r < group_rows; ++r) {
            const T* x = static_cast<const T*>(rows[r]) + k;
            const __m256d w = _mm256_broadcast_sd(weights + r);
            add_products<exact>(load_lanes(x), {w, w, w, w}, left);
            add_products<exact>(load_lanes(x + lanes), {w, w, w, w}, right);
        }
        store_lanes(left, total + k);
        store_lanes(right, total + k + lanes);
    }
    for (; k < d; ++k) {
        for (int r = 0; r < group_rows; ++r) total[k] += weights[r] * load(static_cast<const T*>(rows[r])[k]);
    }
}

template <class T>
constexpr RowMath table = {measure<T>, dot_two<T>, add_rows<T, T>};

double measure_int8(const void* row, int64_t d, float*, const void* next) {
    return static_cast<double>(fixed_sum_squares_avx2(static_cast<const int8_t*>(row), d, next));
}

void dot_two_int8(const void* a, const void* b, const Direction& direction, int64_t d, int64_t ahead,
                  double* out) {
    int64_t sums_a[digits], sums_b[digits];
    fixed_dot_two_avx2(static_cast<const int8_t*>(a), static_cast<const int8_t*>(b), direction.fixed, d,
                       ahead, sums_a, sums_b);
    out[0] = join_digits(sums_a, direction.fixed.unit);
    out[1] = join_digits(sums_b, direction.fixed.unit);
}

void add_rows_int8(const void* const* rows, const double* weights, RowSum& sum, int64_t d, const void* next) {
    const int8_t* row[group_rows];
    int16_t weight[group_rows][digits];
    for (int r = 0; r < group_rows; ++r) {
        row[r] = static_cast<const int8_t*>(rows[r]);
        write_digits(weights[r], sum.fixed.unit, weight[r]);
    }
    fixed_add_avx2(row, weight, sum.fixed, d, next);
}

constexpr RowMath half_table = {measure<Half>, dot_two_half, add_rows<Half, float>};
constexpr RowMath int8_table = {measure_int8, dot_two_int8, add_rows_int8};

}  // namespace

const RowMath& row_math_avx2(Dtype dtype) {
    switch (dtype) {
        case Dtype::int8:
            return int8_table;
        case Dtype::float16:
            return half_table;
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
