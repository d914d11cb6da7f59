#include "store/encode.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "score/rowmath.hpp"

namespace learnalign {
namespace {

// Symmetric int8: q = round(unit * 127 / max|unit|), so the largest entry uses the whole range.
float encode_int8(const float* row, int64_t d, double norm, int8_t* out) {
    float largest = 0.0f;
    for (int64_t k = 0; k < d; ++k) largest = std::max(largest, std::fabs(row[k]));
    const double factor = 127.0 / static_cast<double>(largest);
    // Adding and taking away 1.5 * 2^52 rounds a float64 to the nearest integer, ties to even, without a
    // call.
    constexpr double rounder = 6755399441055744.0;
    for (int64_t k = 0; k < d; ++k) {
        const double rounded = (row[k] * factor + rounder) - rounder;
        out[k] = static_cast<int8_t>(static_cast<int32_t>(rounded));
    }
    return static_cast<float>(static_cast<double>(largest) / norm / 127.0);
}

}  // namespace

RowFacts encode_row(const float* row, int64_t d, Dtype dtype, Simd path, void* out) {
    // A float32 squared cannot overflow or vanish in float64, so the sum is finite exactly when the row is.
    const double squares = row_math(Dtype::float32, path).measure(row, d, row);
    if (!std::isfinite(squares) || squares == 0.0) {
        std::memset(out, 0, static_cast<size_t>(d) * item_bytes(dtype));
        return {squares == 0.0 ? 0.0 : std::numeric_limits<double>::quiet_NaN(), 0.0f};
    }
    const double norm = std::sqrt(squares);
    if (dtype == Dtype::int8) return {norm, encode_int8(row, d, norm, static_cast<int8_t*>(out))};
    const double factor = 1.0 / norm;
    if (dtype == Dtype::float16) {
        scale_to_half(row, factor, static_cast<Half*>(out), d, path);
    } else {
        float* unit = static_cast<float*>(out);
        for (int64_t k = 0; k < d; ++k) unit[k] = static_cast<float>(row[k] * factor);
    }
    return {norm, 1.0f};
}

}  // namespace learnalign
