// The AVX-512 path: the loops of rowmath.cpp with eight lanes to a register. Target attributes and FMA as in
// rowmath_avx2.cpp.
#if defined(__x86_64__)
#include "score/fixedrows.hpp"

#include "common/avx512.hpp"
#include "score/halfsquares.hpp"

#define LEARNALIGN_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq")))

namespace learnalign {
namespace {

LEARNALIGN_AVX512 inline __m512d load8(const float* x) {
    return _mm512_cvtps_pd(_mm256_loadu_ps(x));
}
LEARNALIGN_AVX512 inline __m512d load8(const double* x) {
    return _mm512_loadu_pd(x);
}

LEARNALIGN_AVX512 inline void fetch(const void* where) {
    _mm_prefetch(static_cast<const char*>(where), _MM_HINT_T1);
}

struct Lanes {
    __m512d a, b;
};

template <class T>
LEARNALIGN_AVX512 inline Lanes load_lanes(const T* x) {
    return {load8(x), load8(x + 8)};
}

// 16 halves as float64. By way of float32, where none of them is subnormal: numbers moved as AVX2 moves them
// would be, and Intel's processors take a hundred cycles for each product of such a number.
LEARNALIGN_AVX512 inline __m512 load_floats(const Half* x) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}
LEARNALIGN_AVX512 inline Lanes widened(__m512 x) {
    return {_mm512_cvtps_pd(_mm512_castps512_ps256(x)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1))};
}
LEARNALIGN_AVX512 inline Lanes load_lanes(const Half* x) {
    return widened(load_floats(x));
}

LEARNALIGN_AVX512 inline void store_lanes(const Lanes& sum, double* lane) {
    _mm512_storeu_pd(lane, sum.a);
    _mm512_storeu_pd(lane + 8, sum.b);
}

// sum += x * y; in one step where the products are exact.
template <bool exact>
LEARNALIGN_AVX512 inline void add_products(const Lanes& x, const Lanes& y, Lanes& sum) {
    if constexpr (exact) {
        sum.a = _mm512_fmadd_pd(x.a, y.a, sum.a);
        sum.b = _mm512_fmadd_pd(x.b, y.b, sum.b);
    } else {
        sum.a = _mm512_add_pd(sum.a, _mm512_mul_pd(x.a, y.a));
        sum.b = _mm512_add_pd(sum.b, _mm512_mul_pd(x.b, y.b));
    }
}

// Products of a half and a number of 42 bits are exact, and squares of what fits in half the digits of a
// float64.
template <class T>
constexpr bool exact_products = sizeof(T) == sizeof(Half);
template <class T>
constexpr bool exact_squares = sizeof(T) < sizeof(double);

template <class T>
LEARNALIGN_AVX512 double measure(const void* row, int64_t d, const void* next) {
    const T* x = static_cast<const T*>(row);
    const auto* ahead = static_cast<const char*>(next);
    constexpr int64_t fetch_every = 256 / sizeof(T);
    Lanes sum = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    int64_t k = 0;
    for (; k + lanes <= d; k += lanes) {
        if (k % fetch_every == 0) fetch(ahead + k / fetch_every * 64);
        const Lanes xs = load_lanes(x + k);
        add_products<exact_squares<T>>(xs, xs, sum);
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
LEARNALIGN_AVX512 void dot_two(const void* a, const void* b, const Direction& direction, int64_t d,
                               Ahead ahead, double* out) {
    const T *x = static_cast<const T*>(a), *y = static_cast<const T*>(b);
    constexpr int64_t a_line = 64 / sizeof(T);
    const double* m = direction.values.data();
    const __m512d zero = _mm512_setzero_pd();
    Lanes sum_x = {zero, zero}, sum_y = sum_x;
    int64_t k = 0;
    for (; k + lanes <= d; k += lanes) {
        for (int64_t line = (k + a_line - 1) / a_line; line < (k + lanes + a_line - 1) / a_line; ++line) {
            if (!ahead.is_due(line)) continue;
            fetch(reinterpret_cast<const char*>(x) + ahead.at(line));
            fetch(reinterpret_cast<const char*>(y) + ahead.at(line));
        }
        const Lanes ms = load_lanes(m + k), xs = load_lanes(x + k), ys = load_lanes(y + k);
        add_products<exact_products<T>>(xs, ms, sum_x);
        add_products<exact_products<T>>(ys, ms, sum_y);
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
LEARNALIGN_AVX512 void add_rows(const void* const* rows, const double* weights, RowSum& sum, int64_t d,
                                const void* next) {
    constexpr int columns = 2 * lanes,
                  lines = columns * sizeof(T) * group_rows * (sizeof(T) == sizeof(Half) ? 2 : 3) / 4 / 64;
    double* total = sum.total.data();
    const auto* ahead = static_cast<const char*>(next);
    int64_t k = 0;
    for (; k + columns <= d; k += columns, ahead += 64 * lines) {
        for (int line = 0; line < lines; ++line) fetch(ahead + 64 * line);
        Lanes left = load_lanes(total + k), right = load_lanes(total + k + lanes);
#pragma GCC unroll 8
        for (int r = 0; r < group_rows; ++r) {
            const T* x = static_cast<const T*>(rows[r]) + k;
            const __m512d w = _mm512_set1_pd(weights[r]);
            add_products<exact_products<T>>(load_lanes(x), {w, w}, left);
            add_products<exact_products<T>>(load_lanes(x + lanes), {w, w}, right);
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

// Sixteen lanes of SquareLanes.
struct Squares {
    __m512 sum, rest;
};

LEARNALIGN_AVX512 inline void add_squares(__m512 xs, Squares& lanes) {
    const __m512 next = _mm512_fmadd_ps(xs, xs, lanes.sum);
    lanes.rest = _mm512_add_ps(lanes.rest, _mm512_fmsub_ps(xs, xs, _mm512_sub_ps(next, lanes.sum)));
    lanes.sum = next;
}

// The lanes and the squares that are left of a row.
LEARNALIGN_AVX512 inline void finish_lanes(const Squares& s0, const Squares& s1, const Half* x, int64_t left,
                                           SquareLanes& lanes) {
    _mm512_storeu_ps(lanes.sum, s0.sum);
    _mm512_storeu_ps(lanes.sum + 16, s1.sum);
    _mm512_storeu_ps(lanes.rest, s0.rest);
    _mm512_storeu_ps(lanes.rest + 16, s1.rest);
    for (int64_t l = 0; l < left; ++l) add_square(half_to_float(x[l]), lanes.sum[l], lanes.rest[l]);
}

LEARNALIGN_AVX512 void add_squares_avx512(const Half* x, int64_t d, float base, const void* next,
                                          SquareLanes& lanes) {
    const auto* ahead = static_cast<const char*>(next);
    Squares s0 = {_mm512_set1_ps(base), _mm512_setzero_ps()}, s1 = s0;
    int64_t k = 0;
    for (; k + square_lanes <= d; k += square_lanes) {
        if (k % 64 == 0) fetch(ahead + k);
        add_squares(load_floats(x + k), s0);
        add_squares(load_floats(x + k + 16), s1);
    }
    finish_lanes(s0, s1, x + k, d - k, lanes);
}

double measure_half(const void* row, int64_t d, const void* next) {
    return sum_squares(static_cast<const Half*>(row), d, next, add_squares_avx512);
}

// One of two rows whose squares and products with a direction are summed together.
struct HalfRow {
    const Half* x;
    float base;
    Squares s0, s1;
    Lanes dot;

    LEARNALIGN_AVX512 HalfRow(const void* row, int64_t d)
        : x(static_cast<const Half*>(row)),
          base(guess_base(x, d)),
          s0{_mm512_set1_ps(base), _mm512_setzero_ps()},
          s1(s0),
          dot{_mm512_setzero_pd(), _mm512_setzero_pd()} {}

    LEARNALIGN_AVX512 void add(int64_t k, const Lanes& first, const Lanes& second) {
        const __m512 x0 = load_floats(x + k), x1 = load_floats(x + k + 16);
        add_squares(x0, s0);
        add_squares(x1, s1);
        add_products<true>(widened(x0), first, dot);
        add_products<true>(widened(x1), second, dot);
    }

    // From number k on.
    LEARNALIGN_AVX512 void finish(int64_t k, const double* m, int64_t d, double& square,
                                  double& product) const {
        SquareLanes lanes_of_squares;
        finish_lanes(s0, s1, x + k, d - k, lanes_of_squares);
        square = finish_squares(x, d, base, lanes_of_squares, add_squares_avx512);
        double lane[lanes];
        store_lanes(dot, lane);
        for (int64_t l = 0; k + l < d; ++l) lane[l % lanes] += load(x[k + l]) * m[k + l];
        product = add_lanes(lane);
    }
};

// One loop with little to do for each line of the memory it waits for, in place of three.
LEARNALIGN_AVX512 void measure_and_dot_two_half(const void* a, const void* b, const Direction& direction,
                                                int64_t d, Ahead ahead, double* squares, double* out) {
    HalfRow x(a, d), y(b, d);
    const double* m = direction.values.data();
    int64_t k = 0;
    for (; k + square_lanes <= d; k += square_lanes) {
        fetch(reinterpret_cast<const char*>(a) + ahead.at(k / 32));
        fetch(reinterpret_cast<const char*>(b) + ahead.at(k / 32));
        const Lanes first = load_lanes(m + k), second = load_lanes(m + k + lanes);
        x.add(k, first, second);
        y.add(k, first, second);
    }
    x.finish(k, m, d, squares[0], out[0]);
    y.finish(k, m, d, squares[1], out[1]);
}

LEARNALIGN_AVX512 void add_rows_half(const void* const* rows, const double* weights, RowSum& sum, int64_t d,
                                     const void* next) {
    double scaled[group_rows];
    for (int r = 0; r < group_rows; ++r) scaled[r] = weights[r] * half_sum_scale;
    add_rows<Half>(rows, scaled, sum, d, next);
}

constexpr RowMath half_table = {measure_half, dot_two<Half>, add_rows_half, Order::kept,
                                measure_and_dot_two_half};
constexpr RowMath int8_table = {measure_fixed<fixed_sum_squares_avx512>, dot_two_fixed<fixed_dot_two_avx512>,
                                add_rows_fixed<fixed_add_avx512>, Order::kept,
                                measure_and_dot_two_fixed<fixed_measure_and_dot_two_avx512>};

}  // namespace

const RowMath& row_math_avx512(Dtype dtype) {
    return of_format(dtype, int8_table, half_table, table<float>, table<double>);
}

}  // namespace learnalign
#endif
