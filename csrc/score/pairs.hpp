// One idea: the similarity of given pairs of rows, S_ij = w_i w_j u_i . u_j with u = row / |row|.
//
// From the rows as they are stored, nothing widened in memory, with the sums of the scorer: S_ij and S_ji,
// and the similarities of equal rows, have the same bits, on any number of threads and any SIMD path.
#pragma once

#include <cstdint>
#include <vector>

#include "common/parallel.hpp"
#include "score/score.hpp"
#include "score/unitsum.hpp"

namespace learnalign {

// `which` names the rows that are compared, `weight` their w. What the source points to must outlive this.
class Pairs {
  public:
    // Measures every row once. Throws Error(array) for a row number out of range or a row that is not finite.
    Pairs(RowSource source, std::vector<int64_t> which, std::vector<double> weight, int threads,
          const Poll& poll);

    int64_t rows() const { return static_cast<int64_t>(which_.size()); }

    // out[q * each + k] = S of places queries[q] and others[q * each + k] in `which`; 0 where a row is zeros.
    // Throws Error(array) for a place out of range.
    void similarities(const int64_t* queries, int64_t count, const int64_t* others, int64_t each, int threads,
                      const Poll& poll, float* out) const;

  private:
    RowFormat format() const;

    const RowSource source_;
    const std::vector<int64_t> which_;
    const std::vector<double> weight_;
    std::vector<RowNorm> norm_;
};

}  // namespace learnalign
