#include "score/pairs.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "common/cpu.hpp"
#include "common/error.hpp"
#include "common/floats.hpp"
#include "score/cursor.hpp"

namespace learnalign {
namespace {

constexpr int64_t rows_together = 256;   // measured between two looks at what is left to do
constexpr int64_t queries_together = 4;  // a few hundred dots

std::vector<double> widened(const void* row, Dtype dtype, int64_t d) {
    std::vector<double> wide(static_cast<size_t>(d));
    for (int64_t k = 0; k < d; ++k) {
        switch (dtype) {
            case Dtype::float16:
                wide[k] = half_to_float(static_cast<const Half*>(row)[k]);
                break;
            case Dtype::int8:
                wide[k] = static_cast<const int8_t*>(row)[k];
                break;
            case Dtype::float32:
                wide[k] = static_cast<const float*>(row)[k];
                break;
            case Dtype::float64:
                wide[k] = static_cast<const double*>(row)[k];
                break;
        }
    }
    return wide;
}

// A row as what others are multiplied with, times a power of two that brings its largest entry below 1.
struct Query {
    Direction direction;
    int exponent;
};

Query query_of(std::vector<double> wide, Dtype dtype) {
    double largest = 0.0;
    for (const double x : wide) largest = std::max(largest, std::fabs(x));
    const int exponent = std::ilogb(largest) + 1;
    for (double& x : wide) x = std::ldexp(x, -exponent);
    return {Direction(std::move(wide), dtype), exponent};
}

}  // namespace

Pairs::Pairs(RowSource source, std::vector<int64_t> which, std::vector<double> weight, int threads,
             const Poll& poll)
    : source_(std::move(source)), which_(std::move(which)), weight_(std::move(weight)), norm_(which_.size()) {
    const IeeeFloats ieee;
    int64_t total = 0;
    for (const auto& shard : source_.shards) total += shard.rows;
    for (const int64_t row : which_) {
        if (row < 0 || row >= total) {
            throw Error(ErrorKind::array, "row numbers must lie between 0 and " + std::to_string(total - 1) +
                                              ", found " + std::to_string(row));
        }
    }
    const RowFormat rows_are = format();
    std::atomic<bool> stop{false};
    const int64_t blocks = (rows() + rows_together - 1) / rows_together;
    parallel_blocks(blocks, thread_count(threads, blocks), poll, stop, [&](int64_t block) {
        RowCursor cursor(source_);
        std::vector<double> rescaled;
        for (int64_t i = block * rows_together; i < std::min(rows(), (block + 1) * rows_together); ++i) {
            const void* row = cursor.at(which_[i]);
            norm_[i] = measure(row, rows_are, rescaled, row);
            if (norm_[i].state == RowState::not_finite) {
                throw Error(ErrorKind::array, "sketches must be finite: NaN or infinity in row " +
                                                  std::to_string(which_[i]) + "; drop or repair it");
            }
        }
    });
}

RowFormat Pairs::format() const {
    return {source_.dtype, source_.dimension, row_math(source_.dtype, simd_path())};
}

void Pairs::similarities(const int64_t* queries, int64_t count, const int64_t* others, int64_t each,
                         int threads, const Poll& poll, float* out) const {
    const IeeeFloats ieee;
    const auto check = [&](const int64_t* places, int64_t size) {
        for (int64_t i = 0; i < size; ++i) {
            if (places[i] < 0 || places[i] >= rows()) {
                throw Error(ErrorKind::array, "places must lie between 0 and " + std::to_string(rows() - 1) +
                                                  ", found " + std::to_string(places[i]));
            }
        }
    };
    check(queries, count);
    check(others, count * each);
    const RowFormat rows_are = format();
    const int64_t d = source_.dimension;
    std::atomic<bool> stop{false};
    const int64_t blocks = (count + queries_together - 1) / queries_together;
    parallel_blocks(blocks, thread_count(threads, blocks), poll, stop, [&](int64_t block) {
        RowCursor cursor(source_);
        std::vector<double> scratch[2];
        const auto usable = [&](int64_t place, std::vector<double>& rescaled) -> const void* {
            const void* row = cursor.at(which_[place]);
            if (norm_[place].exponent == 0) return row;
            const auto* x = static_cast<const double*>(row);
            rescaled.resize(static_cast<size_t>(d));
            for (int64_t k = 0; k < d; ++k) rescaled[k] = std::ldexp(x[k], norm_[place].exponent);
            return rescaled.data();
        };
        for (int64_t q = block * queries_together; q < std::min(count, (block + 1) * queries_together); ++q) {
            const int64_t own = queries[q], *other = others + q * each;
            float* to = out + q * each;
            std::fill_n(to, each, 0.0f);
            if (norm_[own].state != RowState::good) continue;
            const Query query = query_of(widened(usable(own, scratch[0]), source_.dtype, d), source_.dtype);
            for (int64_t k = 0; k < each; k += 2) {
                const int64_t pair[2] = {other[k], other[std::min(k + 1, each - 1)]};
                const void* a = usable(pair[0], scratch[0]);
                const void* b = pair[1] == pair[0] ? a : usable(pair[1], scratch[1]);
                double dots[2];
                rows_are.math.dot_two(a, b, query.direction, d, {0, 0}, dots);
                for (int w = 0; w < 2 && k + w < each; ++w) {
                    if (norm_[pair[w]].state != RowState::good) continue;
                    const double norms = norm_[own].norm * norm_[pair[w]].norm;
                    const double cosine = std::clamp(std::ldexp(dots[w], query.exponent) / norms, -1.0, 1.0);
                    to[k + w] = static_cast<float>(weight_[own] * weight_[pair[w]] * cosine);
                }
            }
        }
    });
}

}  // namespace learnalign
