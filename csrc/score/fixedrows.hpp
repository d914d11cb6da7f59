// One idea: a SIMD path's loops over integers (fixed.hpp) as the RowMath of int8 rows.
#pragma once

#include "score/rowmath.hpp"

namespace learnalign {

inline const int8_t* as_int8(const void* row) {
    return static_cast<const int8_t*>(row);
}

template <auto sum_squares>
double measure_fixed(const void* row, int64_t d, const void* next) {
    return static_cast<double>(sum_squares(as_int8(row), d, next));
}

template <auto dot_two>
void dot_two_fixed(const void* a, const void* b, const Direction& direction, int64_t d, Ahead ahead,
                   double* out) {
    int64_t sums_a[digits], sums_b[digits];
    dot_two(as_int8(a), as_int8(b), direction.fixed, d, ahead, sums_a, sums_b);
    out[0] = join_digits(sums_a, direction.fixed.unit);
    out[1] = join_digits(sums_b, direction.fixed.unit);
}

template <auto measure_and_dot_two>
void measure_and_dot_two_fixed(const void* a, const void* b, const Direction& direction, int64_t d,
                               Ahead ahead, double* squares, double* out) {
    int64_t sums_a[digits], sums_b[digits], sums[2];
    measure_and_dot_two(as_int8(a), as_int8(b), direction.fixed, d, ahead, sums, sums_a, sums_b);
    for (int r = 0; r < 2; ++r) squares[r] = static_cast<double>(sums[r]);
    out[0] = join_digits(sums_a, direction.fixed.unit);
    out[1] = join_digits(sums_b, direction.fixed.unit);
}

template <auto add>
void add_rows_fixed(const void* const* rows, const double* weights, RowSum& sum, int64_t d,
                    const void* next) {
    const int8_t* row[group_rows];
    int16_t weight[group_rows][digits];
    for (int r = 0; r < group_rows; ++r) {
        row[r] = as_int8(rows[r]);
        write_digits(weights[r], sum.fixed.unit, weight[r]);
    }
    add(row, weight, sum.fixed, d, next);
}

}  // namespace learnalign
