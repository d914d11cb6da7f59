// One idea: the inner loops over rows of d numbers, in every number format and on every SIMD path.
//
// All paths give the same bits. Float rows: sums over a row run in 16 lanes (element k in lane k mod 16),
// each lane in float64 and in order, and the lanes are added pairwise at the end; sums over rows run in the
// order of the rows; no path fuses a multiplication with an addition. Int8 rows: exact integers (fixed.hpp).
#pragma once

#include <cstdint>
#include <vector>

#include "cpu.hpp"
#include "dtype.hpp"
#include "fixed.hpp"

namespace learnalign {

constexpr int lanes = 16;
constexpr int group_rows =
    fixed_group;  // rows that add_rows takes at once, so that a sum is loaded and stored rarely
constexpr int64_t tile_columns = 1024;  // columns that add_rows takes at once, so that their sums stay in L1

// A sum of weighted rows: float64, or digits of integers while int8 rows are added.
struct RowSum {
    std::vector<double> total;
    FixedSum fixed;
};

// A vector that rows are multiplied with: float64, and its digits where rows are int8.
struct Direction {
    std::vector<double> values;
    FixedVector fixed;
};

// Columns [begin, end) of d; begin is a multiple of tile_columns.
struct Tile {
    int64_t begin;
    int64_t end;
    int64_t ahead;
};

struct RowMath {
    double (*sum_squares)(const void* row, int64_t d);
    // (row . direction) for two rows at once; `b` may equal `a`.
    void (*dot_two)(const void* a, const void* b, const Direction& direction, int64_t d, double* out);
    // sum += weights[r] * rows[r], r = 0 .. count - 1 < group_rows, in this order, in the columns of the
    // tile. Fetches what lies `ahead` columns behind meanwhile.
    void (*add_rows)(const void* const* rows, const double* weights, int count, RowSum& sum,
                     const Tile& tile);
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
