// The AVX2 path: the loops of rowmath.cpp with four lanes to a register. Target attributes instead of
// compiler flags, so that nothing else in this file may use an instruction the machine lacks. No FMA: see
// rowmath.hpp.
#if defined(__x86_64__)
#include "rowmath.hpp"

#include <immintrin.h>

#include <algorithm>

#define LEARNALIGN_AVX2 __attribute__((target("avx2,f16c")))

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

template <class T>
LEARNALIGN_AVX2 double sum_squares(const void* row, int64_t d) {
    const T* x = static_cast<const T*>(row);
    const __m256d zero = _mm256_setzero_pd();
    Lanes sum = {zero, zero, zero, zero};
    int64_t k = 0;
    for (; k + lanes <= d; k += lanes) {
        const Lanes xs = load_lanes(x + k);
        sum.a = multiply_add(xs.a, xs.a, sum.a);
        sum.b = multiply_add(xs.b, xs.b, sum.b);
        sum.c = multiply_add(xs.c, xs.c, sum.c);
        sum.d = multiply_add(xs.d, xs.d, sum.d);
    }
    double lane[lanes];
    store_lanes(sum, lane);
    for (int l = 0; k + l < d; ++l) lane[l] += load(x[k + l]) * load(x[k + l]);
    return add_lanes(lane);
}

template <class T>
LEARNALIGN_AVX2 void dot_two(const void* a, const void* b, const Direction& direction, int64_t d,
                             double* out) {
    const T *x = static_cast<const T*>(a), *y = static_cast<const T*>(b);
    const double* m = direction.values.data();
    const __m256d zero = _mm256_setzero_pd();
    Lanes sum_x = {zero, zero, zero, zero}, sum_y = sum_x;
    int64_t k = 0;
    for (; k + lanes <= d; k += lanes) {
        const __m256d ma = _mm256_loadu_pd(m + k), mb = _mm256_loadu_pd(m + k + 4);
        const __m256d mc = _mm256_loadu_pd(m + k + 8), md = _mm256_loadu_pd(m + k + 12);
        const Lanes xs = load_lanes(x + k), ys = load_lanes(y + k);
        sum_x.a = multiply_add(xs.a, ma, sum_x.a);
        sum_x.b = multiply_add(xs.b, mb, sum_x.b);
        sum_x.c = multiply_add(xs.c, mc, sum_x.c);
        sum_x.d = multiply_add(xs.d, md, sum_x.d);
        sum_y.a = multiply_add(ys.a, ma, sum_y.a);
        sum_y.b = multiply_add(ys.b, mb, sum_y.b);
        sum_y.c = multiply_add(ys.c, mc, sum_y.c);
        sum_y.d = multiply_add(ys.d, md, sum_y.d);
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

template <class T>
LEARNALIGN_AVX2 void add_rows(const void* const* rows, const double* weights, int count, RowSum& sum,
                              const Tile& tile) {
    double* total = sum.total.data();
    int64_t k = tile.begin;
    for (; k + lanes <= tile.end; k += lanes) {
        Lanes column = load_lanes(total + k);
        for (int r = 0; r < count; ++r) {
            const T* x = static_cast<const T*>(rows[r]) + k;
            if (k * static_cast<int64_t>(sizeof(T)) % 64 == 0) {
                _mm_prefetch(reinterpret_cast<const char*>(x + tile.ahead), _MM_HINT_T1);
            }
            const __m256d w = _mm256_broadcast_sd(weights + r);
            const Lanes xs = load_lanes(x);
            column.a = multiply_add(w, xs.a, column.a);
            column.b = multiply_add(w, xs.b, column.b);
            column.c = multiply_add(w, xs.c, column.c);
            column.d = multiply_add(w, xs.d, column.d);
        }
        store_lanes(column, total + k);
    }
    for (; k < tile.end; ++k) {
        for (int r = 0; r < count; ++r) total[k] += weights[r] * load(static_cast<const T*>(rows[r])[k]);
    }
}

template <class T>
constexpr RowMath table = {sum_squares<T>, dot_two<T>, add_rows<T>};

double sum_squares_int8(const void* row, int64_t d) {
    return static_cast<double>(fixed_sum_squares_avx2(static_cast<const int8_t*>(row), d));
}

void dot_two_int8(const void* a, const void* b, const Direction& direction, int64_t d, double* out) {
    int64_t sums_a[digits], sums_b[digits];
    fixed_dot_two_avx2(static_cast<const int8_t*>(a), static_cast<const int8_t*>(b), direction.fixed, d,
                       sums_a, sums_b);
    out[0] = join_digits(sums_a, direction.fixed.unit);
    out[1] = join_digits(sums_b, direction.fixed.unit);
}

// A group that is not full is filled up with its last row at weight 0.
void add_rows_int8(const void* const* rows, const double* weights, int count, RowSum& sum, const Tile& tile) {
    const int8_t* row[fixed_group];
    int16_t weight[fixed_group][digits] = {};
    for (int r = 0; r < fixed_group; ++r) {
        row[r] = static_cast<const int8_t*>(rows[std::min(r, count - 1)]);
        if (r < count) write_digits(weights[r], sum.fixed.unit, weight[r]);
    }
    fixed_add_avx2(row, weight, sum.fixed, tile.begin, tile.end, tile.ahead);
}

constexpr RowMath int8_table = {sum_squares_int8, dot_two_int8, add_rows_int8};

}  // namespace

const RowMath& row_math_avx2(Dtype dtype) {
    switch (dtype) {
        case Dtype::int8:
            return int8_table;
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
