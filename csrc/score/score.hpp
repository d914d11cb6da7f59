// One idea: the LearnAlign score of every row without the N x N matrix, in two streaming passes.
//
//   u_i = row_i / |row_i|,   z_i = V_i u_i,   m = (1 / pool) sum_j z_j,   score_i = z_i . m,   alignment_i =
//   cos(u_i, m)
//
// Float rows: float64 throughout (for half precision the weights V_j / |row_j| and the mean are cut to 42
// bits). Int8 rows: exact integers; rounded are the weights, to 2^-30 of the largest so far among the block's
// 1,024 rows, and the mean, to 2^-30 of its largest entry. The same bits for any number of threads, any split
// into shards and any SIMD path.
#pragma once

#include <cstdint>
#include <vector>

#include "common/dtype.hpp"
#include "common/parallel.hpp"

namespace learnalign {

struct RowSource {
    struct Shard {
        const void* data;
        int64_t rows;
    };
    std::vector<Shard> shards;  // C-contiguous [rows, dimension], in row order
    Dtype dtype;
    int64_t dimension;
};

// zero_refused: a zero row with V > 0 is an error (a caller's own array). zero_scored: it scores 0 (a stored
// row).
enum class ZeroRows { refused, scored };

struct UnitSum {
    std::vector<double> total;  // sum_j V_j u_j [dimension]
    int64_t rows;               // with V > 0 and a direction: those that are in it
};

// One pass. Throws Error(array) naming the first rows that are non-finite, or zero where that is refused.
UnitSum sum_unit_rows(const RowSource& source, const double* learnability, ZeroRows zero_rows, int threads,
                      const Poll& poll);

// `learnability`, `score` and `alignment` hold one number a row. `total`: sum_j V_j u_j [dimension] where it
// is known, of these rows or of others; nullptr: it is summed first. `pool`: the number of rows that m is the
// mean of. Throws Error(array) as above.
void score_rows(const RowSource& source, const double* learnability, const double* total, int64_t pool,
                ZeroRows zero_rows, int threads, const Poll& poll, double* score, double* alignment);

}  // namespace learnalign
