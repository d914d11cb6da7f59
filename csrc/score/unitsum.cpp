#include "score/unitsum.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "common/cpu.hpp"

namespace learnalign {

RowNorm norm_of(double squares) {
    if (!std::isfinite(squares)) return {0.0, 0, RowState::not_finite};
    return {std::sqrt(squares), 0, squares > 0.0 ? RowState::good : RowState::zero};
}

RowNorm measure(const void* row, const RowFormat& format, std::vector<double>& rescaled, const void* next) {
    const int64_t d = format.dimension;
    double squares = format.math.measure(row, d, next);
    int exponent = 0;
    if (format.dtype == Dtype::float64 && !(squares > 1e-200 && squares < 1e200)) {
        const auto* x = static_cast<const double*>(row);
        double largest = 0.0;
        for (int64_t k = 0; k < d; ++k) {
            if (!std::isfinite(x[k])) return {0.0, 0, RowState::not_finite};
            largest = std::max(largest, std::fabs(x[k]));
        }
        if (largest == 0.0) return {0.0, 0, RowState::zero};
        exponent = -std::ilogb(largest);
        rescaled.resize(static_cast<size_t>(d));
        for (int64_t k = 0; k < d; ++k) rescaled[k] = std::ldexp(x[k], exponent);
        squares = format.math.measure(rescaled.data(), d, next);
    }
    RowNorm norm = norm_of(squares);
    norm.exponent = exponent;
    return norm;
}

BlockSum::BlockSum(const RowFormat& format)
    : format_(format), sum_(format.dtype, format.dimension, format.math.order) {}

RowNorm BlockSum::add(const void* row, double learnability) {
    const size_t bytes = format_.row_bytes();
    const auto* stored = static_cast<const uint8_t*>(row);
    const uint8_t* next_group = stored + static_cast<size_t>(group_rows - waiting_) * bytes;
    const size_t fetched = bytes * measured_quarters(format_.dtype) / 4;
    const RowNorm norm =
        measure(row, format_, rescaled_[waiting_], next_group + static_cast<size_t>(waiting_) * fetched);
    if (norm.state != RowState::good || learnability == 0.0) return norm;
    rows_[waiting_] = norm.exponent == 0 ? row : rescaled_[waiting_].data();
    weights_[waiting_] = cut_weight(learnability / norm.norm, format_.dtype);
    end_ = stored + bytes;
    if (++waiting_ == group_rows) flush();
    return norm;
}

// A group that is not full is filled up with its last row at weight 0.
void BlockSum::flush() {
    if (waiting_ == 0) return;
    for (int r = waiting_; r < group_rows; ++r) {
        rows_[r] = rows_[waiting_ - 1];
        weights_[r] = 0.0;
    }
    if (format_.dtype == Dtype::int8)
        sum_.fixed.make_room(*std::max_element(weights_, weights_ + group_rows), sum_.total);
    const void* unfetched = end_ + group_rows * format_.row_bytes() * measured_quarters(format_.dtype) / 4;
    format_.math.add_rows(rows_, weights_, sum_, format_.dimension, unfetched);
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
    return sum_.take();
}

RunningSum::RunningSum(Dtype dtype, int64_t dimension)
    : format_{dtype, dimension, row_math(dtype, simd_path())},
      total_(static_cast<size_t>(dimension), 0.0),
      block_(format_) {}

void RunningSum::add(const void* rows, int64_t count, const double* success_rate) {
    const auto* row = static_cast<const uint8_t*>(rows);
    for (int64_t i = 0; i < count; ++i, row += format_.row_bytes()) {
        const double p = success_rate[i];
        block_.add(row, p * (1.0 - p));
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
