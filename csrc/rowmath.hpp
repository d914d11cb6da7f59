// One idea: the inner loops over one row of d numbers, in every number format and on every SIMD path.
//
// All paths give the same bits: sums run in 16 lanes (element k in lane k mod 16), each lane in float64 and
// in order, and the lanes are added pairwise at the end; no path fuses a multiplication with an addition.
#pragma once

#include <cstdint>

#include "cpu.hpp"
#include "dtype.hpp"

namespace learnalign {

constexpr int lanes = 16;

struct RowMath {
    double (*sum_squares)(const void* row, int64_t d);
    double (*dot)(const void* row, const double* other, int64_t d);
    void (*add_scaled)(const void* row, double weight, double* total, int64_t d);  // total += weight * row
};

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

// The AVX2 twins (rowmath_avx2.cpp); call them only where the machine has avx2 and f16c.
const RowMath& row_math_avx2(Dtype dtype);
void scale_to_half_avx2(const float* row, double factor, Half* out, int64_t d);

}  // namespace learnalign
