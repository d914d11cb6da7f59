// One idea: the sum of the squares of a half-precision row in compensated float32 arithmetic.
//
// The square of a half is exact in float32. Number k goes into lane k mod 32. A lane's sum starts at `base`,
// a power of two; what rounding takes from a sum is exact in float32 too, as long as the sum is the larger
// summand (Dekker 1971, "fast two-sum"), and is summed beside it, in float32.
// Squares in float64 would cost two more conversions for every eight numbers. What float32 loses of what it
// sums beside grows with d and with how far the base lies above a lane's sum: where numbers span many orders
// of magnitude up to 2^-36 of the whole at d = 8,192, up to 2^-31 at 65,536.
#pragma once

#include <cstdint>

#include "common/dtype.hpp"

namespace learnalign {

constexpr int square_lanes = 32;

// sum[l] - base + rest[l] is what lane l holds.
struct SquareLanes {
    float sum[square_lanes], rest[square_lanes];
};

// A path's loop: the squares of d halves from `base` on. May fetch half a row from `next` on.
using AddSquares = void (*)(const Half* x, int64_t d, float base, const void* next, SquareLanes& lanes);

// Where the lanes of d halves begin.
float guess_base(const Half* x, int64_t d);

// |x|^2 from what the loop made of `base`; it runs again where that was a bad guess. NaN or infinity if one
// of the d halves is not finite.
double finish_squares(const Half* x, int64_t d, float base, SquareLanes& lanes, AddSquares add);

// |x|^2; NaN or infinity if one of the d halves is not finite.
double sum_squares(const Half* x, int64_t d, const void* next, AddSquares add);

// The portable path.
void add_squares(const Half* x, int64_t d, float base, const void* next, SquareLanes& lanes);

// One step of a lane, for what is left of a row.
inline void add_square(float x, float& sum, float& rest) {
    const float square = x * x, next = sum + square;
    rest += square - (next - sum);
    sum = next;
}

}  // namespace learnalign
