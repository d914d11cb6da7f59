// The AVX2 path: the loops of rowmath.cpp with four lanes to a register. Target attributes instead of
// compiler flags, so that nothing else in this file may use an instruction the machine lacks. FMA only
// where the product is exact, see rowmath.hpp.
#if defined(__x86_64__)
#include "rowmath.hpp"

#include <immintrin.h>

#include <algorithm>

#define LEARNALIGN_AVX2 __attribute__((target("avx2,fma,f16c")))

namespace learnalign {
namespace {

LEARNALIGN_AVX2 inline __m256d load4(const Half* x) {
    return _mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x))));
}
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
LEARNALIGN_AVX2 inline Lanes load_lanes(const T* x) {
    return {load4(x), load4(x + 4), load4(x + 8), load4(x + 12)};
}

LEARNALIGN_AVX2 inline Lanes load_lanes(const Half* x) {
    const __m256 low = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
    const __m256 high = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + 8)));
    return {_mm256_cvtps_pd(_mm256_castps256_ps128(low)), _mm256_cvtps_pd(_mm256_extractf128_ps(low, 1)),
            _mm256_cvtps_pd(_mm256_castps256_ps128(high)), _mm256_cvtps_pd(_mm256_extractf128_ps(high, 1))};
}

LEARNALIGN_AVX2 inline void fused_add(const Lanes& x, const Lanes& y, Lanes& sum) {
    sum.a = _mm256_fmadd_pd(x.a, y.a, sum.a);
    sum.b = _mm256_fmadd_pd(x.b, y.b, sum.b);
    sum.c = _mm256_fmadd_pd(x.c, y.c, sum.c);
    sum.d = _mm256_fmadd_pd(x.d, y.d, sum.d);
}

template <class T>
LEARNALIGN_AVX2 double sum_squares(const void* row, int64_t d) {
    const T* x = static_cast<const T*>(row);
    const __m256d zero = _mm256_setzero_pd();
    Lanes sum = {zero, zero, zero, zero};
    int64_t k = 0;
    for (; k + lanes <= d; k += lanes) {
        const Lanes xs = load_lanes(x + k);
        if constexpr (sizeof(T) < sizeof(double)) {  // the squares are exact
            fused_add(xs, xs, sum);
        } else {
            sum.a = multiply_add(xs.a, xs.a, sum.a);
            sum.b = multiply_add(xs.b, xs.b, sum.b);
            sum.c = multiply_add(xs.c, xs.c, sum.c);
            sum.d = multiply_add(xs.d, xs.d, sum.d);
        }
    }
    double lane[lanes];
    store_lanes(sum, lane);
    for (int l = 0; k + l < d; ++l) lane[l] += load(x[k + l]) * load(x[k + l]);
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

LEARNALIGN_AVX2 inline void fetch(const void* where) {
    _mm_prefetch(static_cast<const char*>(where), _MM_HINT_T1);
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
        sum_x.a = multiply_add(xs.a, ms.a, sum_x.a);
        sum_x.b = multiply_add(xs.b, ms.b, sum_x.b);
        sum_x.c = multiply_add(xs.c, ms.c, sum_x.c);
        sum_x.d = multiply_add(xs.d, ms.d, sum_x.d);
        sum_y.a = multiply_add(ys.a, ms.a, sum_y.a);
        sum_y.b = multiply_add(ys.b, ms.b, sum_y.b);
        sum_y.c = multiply_add(ys.c, ms.c, sum_y.c);
        sum_y.d = multiply_add(ys.d, ms.d, sum_y.d);
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
        fused_add(moved_lanes(x + k), ms, sum_x);
        fused_add(moved_lanes(y + k), ms, sum_y);
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

template <class T>
LEARNALIGN_AVX2 void add_rows(const void* const* rows, const double* weights, RowSum& sum, int64_t d,
                              const void* next) {
    double* total = sum.total.data();
    const auto* ahead = static_cast<const char*>(next);
    int64_t k = 0;
    for (; k + lanes <= d; k += lanes) {
        Lanes column = load_lanes(total + k);
        for (int r = 0; r < group_rows; ++r, ahead += lanes * sizeof(T)) {
            fetch(ahead);
            const __m256d w = _mm256_broadcast_sd(weights + r);
            const Lanes xs = load_lanes(static_cast<const T*>(rows[r]) + k);
            column.a = multiply_add(w, xs.a, column.a);
            column.b = multiply_add(w, xs.b, column.b);
            column.c = multiply_add(w, xs.c, column.c);
            column.d = multiply_add(w, xs.d, column.d);
        }
        store_lanes(column, total + k);
    }
    for (; k < d; ++k) {
        for (int r = 0; r < group_rows; ++r) total[k] += weights[r] * load(static_cast<const T*>(rows[r])[k]);
    }
}

LEARNALIGN_AVX2 void add_rows_half(const void* const* rows, const double* weights, RowSum& sum, int64_t d,
                                   const void* next) {
    double* total = sum.total.data();
    const auto* ahead = static_cast<const char*>(next);
    __m256d
        moved[group_rows];  // outside the loop: `total` might overlap `weights` for all the compiler knows
    for (int r = 0; r < group_rows; ++r) moved[r] = _mm256_set1_pd(weights[r] * moved_back);
    int64_t k = 0;
    for (; k + lanes <= d; k += lanes, ahead += lanes * sizeof(Half) * group_rows) {
        fetch(ahead);
        fetch(ahead + 64);
        Lanes column = load_moved(total + k);
#pragma GCC unroll 4
        for (int r = 0; r < group_rows; ++r) {
            const __m256d w = moved[r];
            fused_add(moved_lanes(static_cast<const Half*>(rows[r]) + k), {w, w, w, w}, column);
        }
        store_moved(column, total + k);
    }
    for (; k < d; ++k) {
        for (int r = 0; r < group_rows; ++r)
            total[k] += weights[r] * load(static_cast<const Half*>(rows[r])[k]);
    }
}

template <class T>
constexpr RowMath table = {sum_squares<T>, dot_two<T>, add_rows<T>};

double sum_squares_int8(const void* row, int64_t d) {
    return static_cast<double>(fixed_sum_squares_avx2(static_cast<const int8_t*>(row), d));
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

constexpr RowMath half_table = {sum_squares<Half>, dot_two_half, add_rows_half};
constexpr RowMath int8_table = {sum_squares_int8, dot_two_int8, add_rows_int8};

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
