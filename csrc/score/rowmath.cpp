// The portable path, and the choice between the paths.
#include "score/rowmath.hpp"

#include <bit>
#include <utility>

#include "score/halfsquares.hpp"

namespace learnalign {
namespace {

template <class T>
double measure(const void* row, int64_t d, const void*) {
    const T* x = static_cast<const T*>(row);
    double lane[lanes] = {};
    int64_t k = 0;
    for (; k + lanes <= d; k += lanes) {
        for (int l = 0; l < lanes; ++l) lane[l] += load(x[k + l]) * load(x[k + l]);
    }
    for (int l = 0; k + l < d; ++l) lane[l] += load(x[k + l]) * load(x[k + l]);
    return add_lanes(lane);
}

template <class T>
double dot(const T* x, const double* other, int64_t d) {
    double lane[lanes] = {};
    int64_t k = 0;
    for (; k + lanes <= d; k += lanes) {
        for (int l = 0; l < lanes; ++l) lane[l] += load(x[k + l]) * other[k + l];
    }
    for (int l = 0; k + l < d; ++l) lane[l] += load(x[k + l]) * other[k + l];
    return add_lanes(lane);
}

template <class T>
void dot_two(const void* a, const void* b, const Direction& direction, int64_t d, Ahead, double* out) {
    out[0] = dot(static_cast<const T*>(a), direction.values.data(), d);
    out[1] = b == a ? out[0] : dot(static_cast<const T*>(b), direction.values.data(), d);
}

template <class T>
void add_rows(const void* const* rows, const double* weights, RowSum& sum, int64_t d, const void*) {
    double* total = sum.total.data();
    for (int r = 0; r < group_rows; ++r) {
        const T* x = static_cast<const T*>(rows[r]);
        for (int64_t k = 0; k < d; ++k) total[k] += weights[r] * load(x[k]);
    }
}

template <class T>
constexpr RowMath table = {measure<T>, dot_two<T>, add_rows<T>};

double measure_half(const void* row, int64_t d, const void* next) {
    return sum_squares(static_cast<const Half*>(row), d, next, add_squares);
}

void add_rows_half(const void* const* rows, const double* weights, RowSum& sum, int64_t d, const void*) {
    double* total = sum.total.data();
    for (int r = 0; r < group_rows; ++r) {
        const Half* x = static_cast<const Half*>(rows[r]);
        const double weight = weights[r] * half_sum_scale;
        for (int64_t k = 0; k < d; ++k) total[k] += weight * load(x[k]);
    }
}

double measure_int8(const void* row, int64_t d, const void*) {
    return static_cast<double>(fixed_sum_squares(static_cast<const int8_t*>(row), d));
}

void dot_two_int8(const void* a, const void* b, const Direction& direction, int64_t d, Ahead, double* out) {
    int64_t sums[digits];
    fixed_dot(static_cast<const int8_t*>(a), direction.fixed, d, sums);
    out[0] = out[1] = join_digits(sums, direction.fixed.unit);
    if (b == a) return;
    fixed_dot(static_cast<const int8_t*>(b), direction.fixed, d, sums);
    out[1] = join_digits(sums, direction.fixed.unit);
}

void add_rows_int8(const void* const* rows, const double* weights, RowSum& sum, int64_t d, const void*) {
    for (int r = 0; r < group_rows; ++r) {
        int16_t weight[digits];
        write_digits(weights[r], sum.fixed.unit, weight);
        fixed_add(static_cast<const int8_t*>(rows[r]), weight, sum.fixed, d);
    }
}

constexpr RowMath half_table = {measure_half, dot_two<Half>, add_rows_half};
constexpr RowMath int8_table = {measure_int8, dot_two_int8, add_rows_int8};

}  // namespace

RowSum::RowSum(Dtype dtype, int64_t d, Order order)
    : total(static_cast<size_t>(d)), dtype_(dtype), order_(order) {
    if (dtype == Dtype::int8) fixed = FixedSum(d);
}

std::vector<double> RowSum::take() {
    const auto d = static_cast<int64_t>(total.size());
    if (dtype_ == Dtype::int8) {
        fixed.move_to(total);
        fixed.unit = 0.0;
    }
    std::vector<double> taken = std::exchange(total, std::vector<double>(total.size()));
    if (dtype_ != Dtype::float16) return taken;
    std::vector<double> ordered(taken.size());
    for (int64_t k = 0; k < d; ++k)
        ordered[k] = taken[order_ == Order::moved ? moved_place(k, d) : k] / half_sum_scale;
    return ordered;
}

Direction::Direction(std::vector<double> from, Dtype dtype) : values(std::move(from)) {
    const auto d = static_cast<int64_t>(values.size());
    if (dtype == Dtype::int8) fixed = FixedVector(values);
    if (dtype != Dtype::float16) return;
    moved.resize(values.size());
    for (int64_t k = 0; k < d; ++k) moved[moved_place(k, d)] = values[k] * moved_back;
}

const RowMath& row_math(Dtype dtype, Simd path) {
#if defined(__x86_64__)
    if (path == Simd::avx512) return row_math_avx512(dtype);
    if (path == Simd::avx2) return row_math_avx2(dtype);
#else
    (void)path;
#endif
    return of_format(dtype, int8_table, half_table, table<float>, table<double>);
}

double cut_weight(double x, Dtype dtype) {
    if (dtype != Dtype::float16) return x;
    constexpr uint64_t dropped = (uint64_t{1} << 11) - 1;  // 53 - 42 bits, the last of them rounded
    return std::bit_cast<double>((std::bit_cast<uint64_t>(x) + dropped / 2 + 1) & ~dropped);
}

void scale_to_half(const float* row, double factor, Half* out, int64_t d, Simd path) {
#if defined(__x86_64__)
    if (path != Simd::portable) return scale_to_half_avx2(row, factor, out, d);
#else
    (void)path;
#endif
    for (int64_t k = 0; k < d; ++k) out[k] = float_to_half(static_cast<float>(row[k] * factor));
}

}  // namespace learnalign
