// One idea: int8 rows against float64 numbers in exact integer arithmetic.
//
// A number x becomes the integer round(x / unit), |.| <= 2^30, written with two digits to the base 2^16; a
// digit times an int8 fits 16-bit multipliers, so products and sums are exact integers, the same in any order
// and on any path. What is rounded is x alone, once, by at most 2^-30 of the largest |x|.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace learnalign {

constexpr int digits = 2;
constexpr int digit_bits = 16;
constexpr int group_rows = 8;  // rows added at once: a sum is loaded and stored once for all of them
constexpr int64_t fixed_sum_rows = 256;  // rows in a FixedSum: 256 * 2^7 * 2^15 = 2^30 fits 32 bits

// The power of two that makes every |x| <= largest an integer of at most 2^30; 0 for largest = 0.
double fixed_unit(double largest);

// sum_j w_j q_j over at most fixed_sum_rows int8 rows: digit t of column k at [t * d + k's place].
// Each 64 columns stand in the order in which AVX-512 takes two rows apart, the last d % 64 as they come.
struct FixedSum {
    double unit = 0.0;
    int64_t rows = 0;
    std::vector<int32_t> columns;

    FixedSum() = default;
    explicit FixedSum(int64_t d) : columns(digits * static_cast<size_t>(d)) {}
    // Call before group_rows rows with weights up to `largest` are added: where they need more room or a
    // larger unit, `total` takes what is here.
    void make_room(double largest, std::vector<double>& total);
    void move_to(std::vector<double>& total);
};

// A vector of d numbers: digit t of number k at [t * d + k].
struct FixedVector {
    double unit = 0.0;
    std::vector<int16_t> columns;

    FixedVector() = default;
    explicit FixedVector(const std::vector<double>& values);
};

// The digits of round(x / unit), lowest first, each in [-2^15, 2^15).
void write_digits(double x, double unit, int16_t* out);

// Digit sums to a number: (s0 + s1 2^16) unit.
inline double join_digits(const int64_t* sums, double unit) {
    return (static_cast<double>(sums[1]) * 65536.0 + static_cast<double>(sums[0])) * unit;
}

// sums[t] = row . digit t of the vector.
void fixed_dot(const int8_t* row, const FixedVector& vector, int64_t d, int64_t* sums);
// sum += weight * row; weights in units of sum.unit, as digits.
void fixed_add(const int8_t* row, const int16_t* weight, FixedSum& sum, int64_t d);
int64_t fixed_sum_squares(const int8_t* row, int64_t d);

// What to fetch while a row is multiplied: so many quarters of a row, from so many bytes behind that row's
// begin on, a line of the cache at a time.
struct Ahead {
    int64_t bytes;
    int64_t quarters;

    bool is_due(int64_t line) const { return line % 4 < quarters; }
    int64_t at(int64_t line) const { return bytes + (line / 4 * quarters + line % 4) * 64; }
};

// The same with AVX2 (fixed_avx2.cpp), for two and for group_rows rows at once. They fetch what comes next
// meanwhile: dots a pair of rows that is `ahead`, squares a quarter of a row and sums three
// quarters of group_rows rows from `next` on.
void fixed_dot_two_avx2(const int8_t* a, const int8_t* b, const FixedVector& vector, int64_t d, Ahead ahead,
                        int64_t* sums_a, int64_t* sums_b);
void fixed_add_avx2(const int8_t* const* rows, const int16_t (*weights)[digits], FixedSum& sum, int64_t d,
                    const void* next);
int64_t fixed_sum_squares_avx2(const int8_t* row, int64_t d, const void* next);

// The same with AVX-512 and VNNI (fixed_avx512.cpp).
void fixed_dot_two_avx512(const int8_t* a, const int8_t* b, const FixedVector& vector, int64_t d, Ahead ahead,
                          int64_t* sums_a, int64_t* sums_b);
// Both rows' |row|^2 as well.
void fixed_measure_and_dot_two_avx512(const int8_t* a, const int8_t* b, const FixedVector& vector, int64_t d,
                                      Ahead ahead, int64_t* squares, int64_t* sums_a, int64_t* sums_b);
void fixed_add_avx512(const int8_t* const* rows, const int16_t (*weights)[digits], FixedSum& sum, int64_t d,
                      const void* next);
int64_t fixed_sum_squares_avx512(const int8_t* row, int64_t d, const void* next);

}  // namespace learnalign
