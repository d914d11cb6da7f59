// One idea: the inner loops over rows of d numbers, in every number format and on every SIMD path.
//
// All paths give the same bits. Float rows: sums over a row run in 16 lanes (element k in lane k mod 16),
// each lane in float64 and in order, and the lanes are added pairwise at the end; sums over rows run in the
// order of the rows; products are exact or rounded before they are added. Half-precision rows are multiplied
// with numbers cut to 42 bits: 42 + 11 bits fit a float64, so that these products are exact; their squares:
// halfsquares.hpp. Int8 rows: exact integers (fixed.hpp).
#pragma once

#include <cstdint>
#include <vector>

#include "common/cpu.hpp"
#include "common/dtype.hpp"
#include "score/fixed.hpp"

namespace learnalign {

constexpr int lanes = 16;

// Whether a path adds up the numbers of half-precision rows where they stand or at their moved_place().
enum class Order { kept, moved };

// A sum of weighted rows of a format. Only take() says what it is: meanwhile int8 rows are summed as digits
// of integers, half-precision ones times half_sum_scale, on the AVX2 path in the order of moved_place().
class RowSum {
  public:
    RowSum(Dtype dtype, int64_t d, Order order);

    // The sum; the next row begins another one.
    std::vector<double> take();

    std::vector<double> total;
    FixedSum fixed;

  private:
    const Dtype dtype_;
    const Order order_;
};

// A vector that rows of a format are multiplied with, its largest entry below 1: float64, and for int8 rows
// its digits, for half-precision ones times moved_back and in the order of moved_place().
struct Direction {
    std::vector<double> values;
    std::vector<double> moved;
    FixedVector fixed;

    Direction(std::vector<double> values, Dtype dtype);
};

// Halves become float64 by moving bits: sign, exponent and significand of a half stand in the upper 32 bits
// of a float64 once they are shifted there, and only the offset of the exponent differs, for subnormal halves
// too. What comes out is the number times 2^-1008.
constexpr double moved_back = 0x1p1008;
constexpr double half_sum_scale = 0x1p-28;  // weights times half_sum_scale * moved_back stay finite

// Where number k of d stands in the order in which AVX2 moves 16 halves: 0 4 8 12, 2 6 10 14, 1 5 9 13, 3 7
// 11 15.
inline int64_t moved_place(int64_t k, int64_t d) {
    return k < d / 16 * 16 ? k / 16 * 16 + (k % 2 * 2 + k / 2 % 2) * 4 + k / 4 % 4 : k;
}

// The memory works while the processor does: while a group of rows is measured and added, the next one is
// fetched. So many quarters of it by measure(), the others by add_rows(), as the time is divided between
// them.
constexpr int64_t measured_quarters(Dtype dtype) {
    return dtype == Dtype::float16 ? 2 : 1;
}

struct RowMath {
    // |row|^2. Fetches measured_quarters() of a row from `next` on.
    double (*measure)(const void* row, int64_t d, const void* next);
    // (row . direction) for two rows at once; `b` may equal `a`. Fetches a pair `ahead`.
    void (*dot_two)(const void* a, const void* b, const Direction& direction, int64_t d, Ahead ahead,
                    double* out);
    // sum += weights[r] * rows[r] for group_rows rows, in this order. Fetches the other quarters of as many
    // rows from `next` on.
    void (*add_rows)(const void* const* rows, const double* weights, RowSum& sum, int64_t d,
                     const void* next);
    Order order = Order::kept;
    // dot_two() and both rows' |row|^2 in one go; nothing where that is no quicker.
    void (*measure_and_dot_two)(const void* a, const void* b, const Direction& direction, int64_t d,
                                Ahead ahead, double* squares, double* out) = nullptr;
};

// What weights and directions of a format are cut to, see above.
double cut_weight(double x, Dtype dtype);

const RowMath& row_math(Dtype dtype, Simd path);

// A path's choice between its tables.
inline const RowMath& of_format(Dtype dtype, const RowMath& int8, const RowMath& half, const RowMath& single,
                                const RowMath& wide) {
    switch (dtype) {
        case Dtype::int8:
            return int8;
        case Dtype::float16:
            return half;
        case Dtype::float32:
            return single;
        case Dtype::float64:
            break;
    }
    return wide;
}

// out = half(float(row * factor)), the product in float64.
void scale_to_half(const float* row, double factor, Half* out, int64_t d, Simd path);

inline double load(Half x) {
    return half_to_float(x);
}
inline double load(float x) {
    return x;
}
inline double load(double x) {
    return x;
}

// Adds the lanes pairwise. Shared by the paths, so that they agree.
inline double add_lanes(double* lane) {
    for (int width = lanes / 2; width > 0; width /= 2) {
        for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
    }
    return lane[0];
}

// The same with AVX2 (rowmath_avx2.cpp); call them only where the machine has avx2, fma and f16c.
const RowMath& row_math_avx2(Dtype dtype);
void scale_to_half_avx2(const float* row, double factor, Half* out, int64_t d);

// With AVX-512 (rowmath_avx512.cpp); call it only where simd_path() may give that path.
const RowMath& row_math_avx512(Dtype dtype);

}  // namespace learnalign
