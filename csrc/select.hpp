// One idea: which rows a strategy picks, given their scores.
#pragma once

#include <cstdint>
#include <vector>

namespace learnalign {

// The n best rows, best first: learnability > 0 before the others, then the higher score, then the lower row.
// Throws Error(array) on a NaN, naming the first row that holds one, or when n is outside [0, rows].
std::vector<int64_t> top(const double* score, const double* learnability, int64_t rows, int64_t n);

}  // namespace learnalign
