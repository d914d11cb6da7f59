// One idea: sum_j V_j u_j with u_j = row_j / |row_j|, in blocks of 1,024 rows whose sums are added in
// their order.
//
// The scorer's threads sum a block each; RunningSum sums rows as they come, however they are cut into pieces.
// Both give the same bits.
#pragma once

#include <cstdint>
#include <vector>

#include "common/dtype.hpp"
#include "score/rowmath.hpp"

namespace learnalign {

constexpr int64_t block_rows = 1024;  // part of the result: sums are rounded block by block

enum class RowState : uint8_t { good, zero, not_finite };

// Float64 rows near the limits of their range, whose squares overflow or vanish, are used times a power of
// two, which changes no direction and rounds nothing that matters. `exponent` is 0 for all others.
struct RowNorm {
    double norm;
    int exponent;
    RowState state;
};

struct RowFormat {
    Dtype dtype;
    int64_t dimension;
    const RowMath& math;

    size_t row_bytes() const { return static_cast<size_t>(dimension) * item_bytes(dtype); }
};

// Of a row with this sum of squares.
RowNorm norm_of(double squares);

// Leaves the row in `rescaled` if its exponent is not 0. Fetches as much from `next` on as
// RowMath::measure().
RowNorm measure(const void* row, const RowFormat& format, std::vector<double>& rescaled, const void* next);

// The sum of the weighted directions of one block's rows, in the order of the rows, some at a time. The group
// that follows in memory is fetched while one is measured and added.
class BlockSum {
  public:
    explicit BlockSum(const RowFormat& format);

    // Adds learnability * row / |row|; nothing for a row without a direction. The row stays where it is until
    // hold() or take().
    RowNorm add(const void* row, double learnability);
    // Copies what waits: the rows given so far may go.
    void hold();
    std::vector<double> take();  // the next row begins another block

  private:
    void flush();

    const RowFormat format_;
    RowSum sum_;
    std::vector<double> rescaled_[group_rows];
    std::vector<uint8_t> held_;
    const void* rows_[group_rows];
    double weights_[group_rows];
    const uint8_t* end_ = nullptr;  // of the row given last
    int waiting_ = 0;
};

// The sum of stored rows (not of float64) with V = p (1 - p). Zero rows add nothing.
class RunningSum {
  public:
    RunningSum(Dtype dtype, int64_t dimension);

    void add(const void* rows, int64_t count, const double* success_rate);
    std::vector<double> take();

  private:
    void end_block();

    const RowFormat format_;
    std::vector<double> total_;
    BlockSum block_;
    int64_t rows_in_block_ = 0;
};

}  // namespace learnalign
