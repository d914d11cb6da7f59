#include "score/halfsquares.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace learnalign {
namespace {

// For x >= 0; 2^-126 for 0.
float power_of_two_above(float x) {
    constexpr uint32_t exponent = 0x7f800000, one = 0x00800000;
    return std::bit_cast<float>((std::bit_cast<uint32_t>(x) & exponent) + one);
}

}  // namespace

// Above what a lane would hold if its numbers were all as large as the largest of the row's first ones: about
// six times as much as it does, were they normally distributed.
float guess_base(const Half* x, int64_t d) {
    constexpr int64_t looked_at = 64;
    int16_t largest = 0;
    for (int64_t k = 0; k < std::min(d, looked_at); ++k)
        largest = std::max<int16_t>(largest, static_cast<int16_t>(x[k]) & 0x7fff);
    const float number = half_to_float(static_cast<Half>(largest));
    return power_of_two_above(number * number * static_cast<float>(d / square_lanes + 1));
}

void add_squares(const Half* x, int64_t d, float base, const void*, SquareLanes& lanes) {
    std::fill_n(lanes.sum, square_lanes, base);
    std::fill_n(lanes.rest, square_lanes, 0.0f);
    for (int64_t k = 0; k < d; k += square_lanes) {
        for (int64_t l = 0; l < std::min<int64_t>(square_lanes, d - k); ++l)
            add_square(half_to_float(x[k + l]), lanes.sum[l], lanes.rest[l]);
    }
}

// A base below a lane's sum may have been below a square; one far above it leaves too much to the rest.
// Either way the sums themselves are known well enough to begin again with the right one.
double finish_squares(const Half* x, int64_t d, float base, SquareLanes& lanes, AddSquares add) {
    constexpr double too_high = 256.0;
    for (bool first = true;; first = false) {
        double total[square_lanes], largest[square_lanes];
        for (int l = 0; l < square_lanes; ++l)
            total[l] = largest[l] = (static_cast<double>(lanes.sum[l]) - base) + lanes.rest[l];
        for (int width = square_lanes / 2; width > 0; width /= 2) {
            for (int l = 0; l < width; ++l) {
                total[l] += total[l + width];
                largest[l] = std::max(largest[l], largest[l + width]);
            }
        }
        const bool fits = largest[0] <= base && base <= too_high * largest[0];
        if (fits || !first || !std::isfinite(total[0])) return total[0];
        base = power_of_two_above(static_cast<float>(largest[0]));
        add(x, d, base, x, lanes);
    }
}

double sum_squares(const Half* x, int64_t d, const void* next, AddSquares add) {
    SquareLanes lanes;
    const float base = guess_base(x, d);
    add(x, d, base, next, lanes);
    return finish_squares(x, d, base, lanes, add);
}

}  // namespace learnalign
