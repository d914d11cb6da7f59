// One idea: a float32 gradient sketch becomes a stored row of unit norm.
#pragma once

#include <cstdint>

#include "common/cpu.hpp"
#include "common/dtype.hpp"

namespace learnalign {

struct RowFacts {
    double norm;  // before normalizing, summed in float64; 0 for a zero row, NaN for a non-finite one
    float scale;  // stored row * scale = unit row; 1 for the float formats; 0 for a row stored as zeros
};

// Writes d numbers of `dtype` (float16, int8 or float32) to `out`. A zero or non-finite row is stored as
// zeros.
RowFacts encode_row(const float* row, int64_t d, Dtype dtype, Simd path, void* out);

}  // namespace learnalign
