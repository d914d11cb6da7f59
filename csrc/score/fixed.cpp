#include "score/fixed.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace learnalign {
namespace {

constexpr int64_t chunk = 256;  // products of one digit whose sum fits 32 bits: 256 * 2^7 * 2^15 = 2^30

// Calls each(column, its place in a FixedSum) for d columns.
template <class Each>
void for_columns(int64_t d, Each each) {
    constexpr int64_t places[16] = {0,  16, 1,  17, 2,  18, 3,  19,
                                    32, 48, 33, 49, 34, 50, 35, 51};  // of 64, and + 4, + 8, + 12
    const int64_t whole = d / 64 * 64;
    for (int64_t block = 0; block < whole; block += 64) {
        for (int k = 0; k < 64; ++k) each(block + k, block + places[k % 16] + k / 16 * 4);
    }
    for (int64_t k = whole; k < d; ++k) each(k, k);
}

}  // namespace

double fixed_unit(double largest) {
    if (largest == 0.0) return 0.0;
    const double unit = std::ldexp(1.0, std::ilogb(largest) + 1 - (digits * digit_bits - 2));
    return std::max(unit, std::numeric_limits<double>::denorm_min());
}

void write_digits(double x, double unit, int16_t* out) {
    const int64_t whole = std::llrint(x / unit);
    const auto low = static_cast<int16_t>(static_cast<uint16_t>(whole));
    out[0] = low;
    out[1] = static_cast<int16_t>((whole - low) / (int64_t{1} << digit_bits));
}

void FixedSum::make_room(double largest, std::vector<double>& total) {
    const double needed = std::max(unit, fixed_unit(largest));
    if (needed > unit || rows == fixed_sum_rows) move_to(total);
    unit = needed;
    rows += group_rows;
}

void FixedSum::move_to(std::vector<double>& total) {
    if (rows == 0) return;
    const auto d = static_cast<int64_t>(total.size());
    for_columns(d, [&](int64_t k, int64_t place) {
        const int64_t sums[digits] = {columns[place], columns[d + place]};
        total[k] += join_digits(sums, unit);
    });
    std::fill(columns.begin(), columns.end(), 0);
    rows = 0;
}

FixedVector::FixedVector(const std::vector<double>& values) : columns(digits * values.size()) {
    const size_t d = values.size();
    double largest = 0.0;
    for (const double x : values) largest = std::max(largest, std::fabs(x));
    unit = fixed_unit(largest);
    for (size_t k = 0; k < d && unit > 0.0; ++k) {
        int16_t digit[digits];
        write_digits(values[k], unit, digit);
        for (int t = 0; t < digits; ++t) columns[t * d + k] = digit[t];
    }
}

void fixed_dot(const int8_t* row, const FixedVector& vector, int64_t d, int64_t* sums) {
    for (int t = 0; t < digits; ++t) {
        const int16_t* digit = vector.columns.data() + t * d;
        sums[t] = 0;
        for (int64_t begin = 0; begin < d; begin += chunk) {
            const int64_t end = std::min(d, begin + chunk);
            int32_t sum = 0;
            for (int64_t k = begin; k < end; ++k) sum += int32_t{row[k]} * digit[k];
            sums[t] += sum;
        }
    }
}

void fixed_add(const int8_t* row, const int16_t* weight, FixedSum& sum, int64_t d) {
    for (int t = 0; t < digits; ++t) {
        int32_t* column = sum.columns.data() + t * d;
        for_columns(d, [&](int64_t k, int64_t place) { column[place] += int32_t{weight[t]} * row[k]; });
    }
}

int64_t fixed_sum_squares(const int8_t* row, int64_t d) {
    int64_t total = 0;
    for (int64_t begin = 0; begin < d; begin += chunk) {
        const int64_t end = std::min(d, begin + chunk);
        int32_t sum = 0;
        for (int64_t k = begin; k < end; ++k) sum += int32_t{row[k]} * row[k];
        total += sum;
    }
    return total;
}

}  // namespace learnalign
