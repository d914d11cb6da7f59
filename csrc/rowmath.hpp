// One idea: the inner loops over rows of d numbers, in every number format and on every SIMD path.
//
// All paths give the same bits. Float rows: sums over a row run in 16 lanes (element k in lane k mod 16),
// each lane in float64 and in order, and the lanes are added pairwise at the end; sums over rows run in the
// order of the rows; products are exact or rounded before they are added. Half-precision rows are multiplied
// with numbers cut to 42 bits: 42 + 11 bits fit a float64, so that these products are exact. Int8 rows: exact
// integers (fixed.hpp).
#pragma once

#include <cstdint>
#include <vector>

#include "cpu.hpp"
#include "dtype.hpp"
#include "fixed.hpp"

namespace learnalign {

constexpr int lanes = 16;

// A sum of weighted rows: float64, and digits of integers while int8 rows are added.
struct RowSum {
    std::vector<double> total;
    FixedSum fixed;
};

// A vector that rows are multiplied with, its largest entry below 1: float64, and its digits for int8 rows.
struct Direction {
    std::vector<double> values;
    FixedVector fixed;
};

struct RowMath {
    // |row|^2. A half-precision row is written to `wide` [d] as float32 meanwhile: it is added in this form.
    // Fetches a quarter of a row from `next` on: the memory works while the processor does.
    double (*measure)(const void* row, int64_t d, float* wide, const void* next);
    // (row . direction) for two rows at once; `b` may equal `a`. Fetches the pair `ahead` bytes behind
    // meanwhile.
    void (*dot_two)(const void* a, const void* b, const Direction& direction, int64_t d, int64_t ahead,
                    double* out);
    // sum += weights[r] * rows[r] for group_rows rows, in this order; rows of half precision as `wide`.
    // Fetches three quarters of as many stored rows from `next` on meanwhile.
    void (*add_rows)(const void* const* rows, const double* weights, RowSum& sum, int64_t d,
                     const void* next);
};

// What weights and directions of a format are cut to, see above.
double cut_weight(double x, Dtype dtype);

const RowMath& row_math(Dtype dtype, Simd path);

// out = half(float(row * factor)), the product in float64.
void scale_to_half(const float* row, double factor, Half* out, int64_t d, Simd path);

// Adds the lanes pairwise. Shared by the paths, so that they agree.
inline double add_lanes(double* lane) {
    for (int width = lanes / 2; width > 0; width /= 2) {
        for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
    }
    return lane[0];
}

// The AVX2 twins (rowmath_avx2.cpp); call them only where the machine has avx2, fma and f16c.
const RowMath& row_math_avx2(Dtype dtype);
void scale_to_half_avx2(const float* row, double factor, Half* out, int64_t d);

}  // namespace learnalign
