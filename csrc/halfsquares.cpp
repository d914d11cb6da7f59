#include "halfsquares.hpp"

#include <algorithm>
#include <cmath>

namespace learnalign {
namespace {

float power_of_two_above(double x) {
    return x > 0.0 ? static_cast<float>(std::ldexp(1.0, std::ilogb(x) + 1)) : 0.0f;
}

// What a lane would hold if its numbers were all as large as the largest of the row's first ones: about six
// times as much as it does, were they normally distributed.
float guess_base(const Half* x, int64_t d) {
    constexpr int64_t looked_at = 64;
    int largest = 0;
    for (int64_t k = 0; k < std::min(d, looked_at); ++k)
        largest = std::max(largest, static_cast<int>(x[k]) & 0x7fff);
    const double number = half_to_float(static_cast<Half>(largest));
    return std::isfinite(number)
               ? power_of_two_above(number * number * static_cast<double>(d / square_lanes + 1))
               : 1.0f;
}

}  // namespace

void add_squares(const Half* x, int64_t d, float base, const void*, SquareLanes& lanes) {
    std::fill_n(lanes.sum, square_lanes, base);
    std::fill_n(lanes.rest, square_lanes, 0.0f);
    for (int64_t k = 0; k < d; k += square_lanes) {
        for (int64_t l = 0; l < std::min<int64_t>(square_lanes, d - k); ++l)
            add_square(half_to_float(x[k + l]), lanes.sum[l], lanes.rest[l]);
    }
}

// A base below a lane's sum may have been below a square; one far above it leaves too much to the rest.
// Either way the sum itself is known well enough to begin again with the right one.
double sum_squares(const Half* x, int64_t d, const void* next, AddSquares add) {
    constexpr double too_high = 256.0;
    SquareLanes lanes;
    float base = guess_base(x, d);
    for (bool again = true;; again = false) {
        add(x, d, base, next, lanes);
        double total = 0.0, largest = 0.0;
        for (int l = 0; l < square_lanes; ++l) {
            const double lane = (static_cast<double>(lanes.sum[l]) - base) + lanes.rest[l];
            total += lane;
            largest = std::max(largest, lane);
        }
        if (!again || !std::isfinite(total) || (largest <= base && base <= too_high * largest)) return total;
        base = power_of_two_above(largest);
    }
}

}  // namespace learnalign
