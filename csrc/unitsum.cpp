#include "unitsum.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "cpu.hpp"

namespace learnalign {

RowLength measure(const void* row, const RowFormat& format, std::vector<double>& scratch) {
    const int64_t d = format.dimension;
    RowLength length;
    double squares = format.math.sum_squares(row, d);
    if (format.dtype == Dtype::float64 && !(squares > 1e-200 && squares < 1e200)) {
        const auto* x = static_cast<const double*>(row);
        double largest = 0.0;
        for (int64_t k = 0; k < d; ++k) {
            if (!std::isfinite(x[k])) return {0.0, 0, RowState::not_finite};
            largest = std::max(largest, std::fabs(x[k]));
        }
        if (largest == 0.0) return length;
        length.exponent = -std::ilogb(largest);
        scratch.resize(static_cast<size_t>(d));
        for (int64_t k = 0; k < d; ++k) scratch[k] = std::ldexp(x[k], length.exponent);
        squares = format.math.sum_squares(scratch.data(), d);
    }
    if (!std::isfinite(squares)) return {0.0, 0, RowState::not_finite};
    length.norm = std::sqrt(squares);
    length.state = squares > 0.0 ? RowState::good : RowState::zero;
    return length;
}

BlockSum::BlockSum(const RowFormat& format) : format_(format) {
    sum_.total.resize(static_cast<size_t>(format.dimension), 0.0);
    if (format.dtype == Dtype::int8) sum_.fixed = FixedSum(format.dimension);
}

void BlockSum::add(const void* row, double weight) {
    rows_[waiting_] = row;
    weights_[waiting_] = cut_weight(weight, format_.dtype);
    if (++waiting_ == group_rows) flush();
}

// A group that is not full is filled up with its last row at weight 0.
void BlockSum::flush() {
    if (waiting_ == 0) return;
    const auto* last = static_cast<const uint8_t*>(rows_[waiting_ - 1]);
    for (int r = waiting_; r < group_rows; ++r) {
        rows_[r] = last;
        weights_[r] = 0.0;
    }
    if (format_.dtype == Dtype::int8)
        sum_.fixed.make_room(*std::max_element(weights_, weights_ + group_rows), sum_.total);
    format_.math.add_rows(rows_, weights_, sum_, format_.dimension, last + format_.row_bytes());
    waiting_ = 0;
}

// Adding them at once instead would end a group early, which the rounding of int8 weights shows.
void BlockSum::hold() {
    const size_t bytes = format_.row_bytes();
    if (held_.empty() && waiting_ > 0) held_.resize(group_rows * bytes);
    for (int r = 0; r < waiting_; ++r) {
        uint8_t* own = held_.data() + static_cast<size_t>(r) * bytes;
        if (rows_[r] != own) std::memcpy(own, rows_[r], bytes);
        rows_[r] = own;
    }
}

std::vector<double> BlockSum::take() {
    flush();
    if (format_.dtype == Dtype::int8) {
        sum_.fixed.move_to(sum_.total);
        sum_.fixed.unit = 0.0;
    }
    return std::exchange(sum_.total, std::vector<double>(sum_.total.size(), 0.0));
}

RunningSum::RunningSum(Dtype dtype, int64_t dimension)
    : format_{dtype, dimension, row_math(dtype, simd_path())},
      total_(static_cast<size_t>(dimension), 0.0),
      block_(format_) {}

void RunningSum::add(const void* rows, int64_t count, const double* success_rate) {
    const auto* row = static_cast<const uint8_t*>(rows);
    for (int64_t i = 0; i < count; ++i, row += format_.row_bytes()) {
        const double p = success_rate[i];
        const RowLength length = measure(row, format_, scratch_);
        if (length.state == RowState::good && p * (1.0 - p) > 0.0)
            block_.add(row, p * (1.0 - p) / length.norm);
        if (++rows_in_block_ == block_rows) end_block();
    }
    block_.hold();
}

std::vector<double> RunningSum::take() {
    end_block();
    return std::move(total_);
}

void RunningSum::end_block() {
    const std::vector<double> part = block_.take();
    for (size_t k = 0; k < total_.size(); ++k) total_[k] += part[k];
    rows_in_block_ = 0;
}

}  // namespace learnalign
