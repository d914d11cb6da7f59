// The AVX2 path: the loops of rowmath.cpp with four lanes to a register. Target attributes instead of
// compiler flags, so that nothing else in this file may use an instruction the machine lacks. FMA only
// where the product is exact, see rowmath.hpp.
#if defined(__x86_64__)
#include "score/fixedrows.hpp"

#include <immintrin.h>

#include "score/halfsquares.hpp"

#define LEARNALIGN_AVX2 __attribute__((target("avx2,fma,f16c")))

namespace learnalign {
namespace {

LEARNALIGN_AVX2 inline __m256d load4(const float* x) {
    return _mm256_cvtps_pd(_mm_loadu_ps(x));
}
LEARNALIGN_AVX2 inline __m256d load4(const double* x) {
    return _mm256_loadu_pd(x);
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
LEARNALIGN_AVX2 double measure(const void* row, int64_t d, const void* next) {
    const T* x = static_cast<const T*>(row);
    const auto* ahead = static_cast<const char*>(next);
    constexpr int64_t fetch_every = 256 / sizeof(T);
    const __m256d zero = _mm256_setzero_pd();
    Lanes sum = {zero, zero, zero, zero};
    int64_t k = 0;
    for (; k + lanes <= d; k += lanes) {
        if (k % fetch_every == 0) fetch(ahead + k / fetch_every * 64);
        const Lanes xs = load_lanes(x + k);
        add_products<(sizeof(T) < sizeof(double))>(xs, xs, sum);
    }
    double lane[lanes];
    store_lanes(sum, lane);
    for (int l = 0; k + l < d; ++l) {
        const double last = load(x[k + l]);
        lane[l] += last * last;
    }
    return add_lanes(lane);
}

template <class T>
LEARNALIGN_AVX2 void dot_two(const void* a, const void* b, const Direction& direction, int64_t d, Ahead ahead,
                             double* out) {
    const T *x = static_cast<const T*>(a), *y = static_cast<const T*>(b);
    constexpr int64_t a_line = 64 / sizeof(T);
    const double* m = direction.values.data();
    const __m256d zero = _mm256_setzero_pd();
    Lanes sum_x = {zero, zero, zero, zero}, sum_y = sum_x;
    int64_t k = 0;
    for (; k + lanes <= d; k += lanes) {
        for (int64_t line = k / a_line; line < (k + lanes) / a_line; ++line) {
            if (!ahead.is_due(line)) continue;
            fetch(reinterpret_cast<const char*>(x) + ahead.at(line));
            fetch(reinterpret_cast<const char*>(y) + ahead.at(line));
        }
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

template <class T>
LEARNALIGN_AVX2 void add_rows(const void* const* rows, const double* weights, RowSum& sum, int64_t d,
                              const void* next) {
    constexpr int columns = 2 * lanes, lines = columns * sizeof(T) * group_rows * 3 / 4 / 64;
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
            add_products<false>(load_lanes(x), {w, w, w, w}, left);
            add_products<false>(load_lanes(x + lanes), {w, w, w, w}, right);
        }
        store_lanes(left, total + k);
        store_lanes(right, total + k + lanes);
    }
    for (; k < d; ++k) {
        for (int r = 0; r < group_rows; ++r) total[k] += weights[r] * load(static_cast<const T*>(rows[r])[k]);
    }
}

template <class T>
constexpr RowMath table = {measure<T>, dot_two<T>, add_rows<T>};

// Eight lanes of SquareLanes.
struct Squares {
    __m256 sum, rest;
};

LEARNALIGN_AVX2 inline void add_squares(const Half* x, Squares& lanes) {
    const __m256 xs = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
    const __m256 next = _mm256_fmadd_ps(xs, xs, lanes.sum);
    lanes.rest = _mm256_add_ps(lanes.rest, _mm256_fmsub_ps(xs, xs, _mm256_sub_ps(next, lanes.sum)));
    lanes.sum = next;
}

LEARNALIGN_AVX2 void add_squares_avx2(const Half* x, int64_t d, float base, const void* next,
                                      SquareLanes& lanes) {
    const auto* ahead = static_cast<const char*>(next);
    const Squares begin = {_mm256_set1_ps(base), _mm256_setzero_ps()};
    Squares s0 = begin, s1 = begin, s2 = begin, s3 = begin;
    int64_t k = 0;
    for (; k + square_lanes <= d; k += square_lanes) {
        if (k % 64 == 0) fetch(ahead + k);
        add_squares(x + k, s0);
        add_squares(x + k + 8, s1);
        add_squares(x + k + 16, s2);
        add_squares(x + k + 24, s3);
    }
    const Squares all[] = {s0, s1, s2, s3};
    for (int q = 0; q < 4; ++q) {
        _mm256_storeu_ps(lanes.sum + 8 * q, all[q].sum);
        _mm256_storeu_ps(lanes.rest + 8 * q, all[q].rest);
    }
    for (int l = 0; k + l < d; ++l) add_square(half_to_float(x[k + l]), lanes.sum[l], lanes.rest[l]);
}

double measure_half(const void* row, int64_t d, const void* next) {
    return sum_squares(static_cast<const Half*>(row), d, next, add_squares_avx2);
}

struct Pair {
    __m256d left, right;
};

LEARNALIGN_AVX2 inline Pair load_pair(const double* x) {
    return {load4(x), load4(x + 4)};
}

LEARNALIGN_AVX2 inline void store_pair(const Pair& pair, double* x) {
    _mm256_storeu_pd(x, pair.left);
    _mm256_storeu_pd(x + 4, pair.right);
}

// sum += x * y, the products exact.
LEARNALIGN_AVX2 inline void add_products(const Pair& x, const Pair& y, Pair& sum) {
    sum.left = _mm256_fmadd_pd(x.left, y.left, sum.left);
    sum.right = _mm256_fmadd_pd(x.right, y.right, sum.right);
}

// Of 16 halves the even ones (0 4 8 12, 2 6 10 14) or the odd ones (1 5 9 13, 3 7 11 15), times 1 /
// moved_back. As 32-bit integers times 2^10 sign, exponent and significand stand where the upper half of a
// float64 has them.
enum class Taken { even, odd };
template <Taken taken>
LEARNALIGN_AVX2 inline Pair moved(const Half* x) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    const __m256i integers =
        _mm256_madd_epi16(halves, _mm256_set1_epi32(taken == Taken::even ? 1 << 10 : 1 << 26));
    const __m256i bits = _mm256_set1_epi64x(static_cast<int64_t>(0x81fffc0000000000));
    return {_mm256_castsi256_pd(_mm256_and_si256(_mm256_slli_epi64(integers, 32), bits)),
            _mm256_castsi256_pd(_mm256_and_si256(integers, bits))};
}

// The sum of 16 moved lanes and of the products that are left of a row.
LEARNALIGN_AVX2 inline double add_moved(const Pair& even, const Pair& odd, const Half* x,
                                        const double* values, int64_t left) {
    double in_place[lanes], lane[lanes];
    store_pair(even, in_place);
    store_pair(odd, in_place + 8);
    for (int l = 0; l < lanes; ++l) lane[l] = in_place[moved_place(l, lanes)];
    for (int64_t l = 0; l < left; ++l) lane[l] += load(x[l]) * values[l];
    return add_lanes(lane);
}

LEARNALIGN_AVX2 void dot_two_half(const void* a, const void* b, const Direction& direction, int64_t d,
                                  Ahead ahead, double* out) {
    const Half *x = static_cast<const Half*>(a), *y = static_cast<const Half*>(b);
    const double *m = direction.moved.data(), *values = direction.values.data();
    const __m256d zero = _mm256_setzero_pd();
    Pair even_x = {zero, zero}, odd_x = even_x, even_y = even_x, odd_y = even_x;
    int64_t k = 0;
    for (; k + lanes <= d; k += lanes) {
        if (k % 32 == 0 && ahead.is_due(k / 32)) {
            fetch(reinterpret_cast<const char*>(x) + ahead.at(k / 32));
            fetch(reinterpret_cast<const char*>(y) + ahead.at(k / 32));
        }
        const Pair even = load_pair(m + k), odd = load_pair(m + k + 8);
        add_products(moved<Taken::even>(x + k), even, even_x);
        add_products(moved<Taken::even>(y + k), even, even_y);
        add_products(moved<Taken::odd>(x + k), odd, odd_x);
        add_products(moved<Taken::odd>(y + k), odd, odd_y);
    }
    out[0] = add_moved(even_x, odd_x, x + k, values + k, d - k);
    out[1] = add_moved(even_y, odd_y, y + k, values + k, d - k);
}

LEARNALIGN_AVX2 void add_rows_half(const void* const* rows, const double* weights, RowSum& sum, int64_t d,
                                   const void* next) {
    constexpr int columns = 2 * lanes, lines = columns * sizeof(Half) * group_rows / 2 / 64;
    double* total = sum.total.data();
    const auto* ahead = static_cast<const char*>(next);
    double scaled[group_rows], lifted[group_rows];  // for what is left, and for moved numbers
    for (int r = 0; r < group_rows; ++r) {
        scaled[r] = weights[r] * half_sum_scale;
        lifted[r] = scaled[r] * moved_back;
    }
    int64_t k = 0;
    for (; k + columns <= d; k += columns, ahead += 64 * lines) {
        for (int line = 0; line < lines; ++line) fetch(ahead + 64 * line);
        Pair even = load_pair(total + k), odd = load_pair(total + k + 8), even2 = load_pair(total + k + 16),
             odd2 = load_pair(total + k + 24);
#pragma GCC unroll 8
        for (int r = 0; r < group_rows; ++r) {
            const Half* x = static_cast<const Half*>(rows[r]) + k;
            const __m256d w = _mm256_broadcast_sd(lifted + r);
            add_products(moved<Taken::even>(x), {w, w}, even);
            add_products(moved<Taken::odd>(x), {w, w}, odd);
            add_products(moved<Taken::even>(x + lanes), {w, w}, even2);
            add_products(moved<Taken::odd>(x + lanes), {w, w}, odd2);
        }
        store_pair(even, total + k);
        store_pair(odd, total + k + 8);
        store_pair(even2, total + k + 16);
        store_pair(odd2, total + k + 24);
    }
    for (; k < d; ++k) {
        for (int r = 0; r < group_rows; ++r)
            total[moved_place(k, d)] += scaled[r] * load(static_cast<const Half*>(rows[r])[k]);
    }
}

constexpr RowMath half_table = {measure_half, dot_two_half, add_rows_half, Order::moved};
constexpr RowMath int8_table = {measure_fixed<fixed_sum_squares_avx2>, dot_two_fixed<fixed_dot_two_avx2>,
                                add_rows_fixed<fixed_add_avx2>};

}  // namespace

const RowMath& row_math_avx2(Dtype dtype) {
    return of_format(dtype, int8_table, half_table, table<float>, table<double>);
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
