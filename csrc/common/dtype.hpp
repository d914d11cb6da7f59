// One idea: the number formats of a row, and IEEE half precision in portable C++.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace learnalign {

static_assert(std::endian::native == std::endian::little, "the store's files are little-endian");

// The values are part of the on-disk format (FORMAT.md). float64 is for callers' arrays, never stored.
enum class Dtype : uint32_t { float16 = 1, int8 = 2, float32 = 3, float64 = 4 };

constexpr size_t item_bytes(Dtype dtype) {
    switch (dtype) {
        case Dtype::float16:
            return 2;
        case Dtype::int8:
            return 1;
        case Dtype::float32:
            return 4;
        case Dtype::float64:
            return 8;
    }
    return 0;
}

// A distinct type, so that overloads tell half precision from a 16-bit integer.
enum class Half : uint16_t {};

inline float half_to_float(Half half) {
    const uint32_t bits = static_cast<uint16_t>(half);
    const uint32_t sign = (bits & 0x8000u) << 16;
    const uint32_t rest = bits & 0x7fffu;
    if (rest >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
    // Shifting the exponent field into place leaves it too small by 112; the product repairs that, exactly,
    // for normal and subnormal halves alike.
    const float magnitude = std::bit_cast<float>(rest << 13) * std::bit_cast<float>((127u + 112u) << 23);
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

// Rounds to nearest, ties to even.
inline Half float_to_half(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t rest = bits & 0x7fffffffu;
    uint32_t half;
    if (rest >= 0x47800000u) {  // 65,536 and above, infinities, NaN
        half = rest > 0x7f800000u ? 0x7e00u : 0x7c00u;
    } else if (rest < 0x38800000u) {  // below 2^-14: let the adder round at half's subnormal spacing, 2^-24
        const float rounded = std::bit_cast<float>(rest) + 0.5f;
        half = std::bit_cast<uint32_t>(rounded) - std::bit_cast<uint32_t>(0.5f);
    } else {
        const uint32_t odd = (rest >> 13) & 1u;
        half = (rest - 0x38000000u + 0xfffu + odd) >> 13;
    }
    return static_cast<Half>(sign | half);
}

}  // namespace learnalign
