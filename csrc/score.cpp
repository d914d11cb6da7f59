#include "score.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "cpu.hpp"
#include "error.hpp"
#include "rowmath.hpp"

namespace learnalign {
namespace {

constexpr int64_t block_rows = fixed_sum_rows;  // part of the result: sums are rounded block by block

enum class RowState : uint8_t { good, zero, not_finite };

// Finds a row by its global number, so that blocks run across shards.
class RowCursor {
  public:
    explicit RowCursor(const RowSource& source)
        : source_(source), row_bytes_(static_cast<size_t>(source.dimension) * item_bytes(source.dtype)) {}

    const void* at(int64_t row) {
        while (row < first_) first_ -= source_.shards[--shard_].rows;
        while (row >= first_ + source_.shards[shard_].rows) first_ += source_.shards[shard_++].rows;
        const auto* base = static_cast<const uint8_t*>(source_.shards[shard_].data);
        return base + static_cast<size_t>(row - first_) * row_bytes_;
    }

  private:
    const RowSource& source_;
    size_t row_bytes_;
    size_t shard_ = 0;
    int64_t first_ = 0;
};

// Float64 rows near the limits of their range, whose squares overflow or vanish, are used times a power of
// two, which changes no direction and rounds nothing that matters. `exponent` is 0 for all others.
struct RowLength {
    double norm = 0.0;
    int exponent = 0;
    RowState state = RowState::zero;
};

RowLength measure(const void* row, int64_t d, Dtype dtype, const RowMath& math,
                  std::vector<double>& scratch) {
    RowLength length;
    double squares = math.sum_squares(row, d);
    if (dtype == Dtype::float64 && !(squares > 1e-200 && squares < 1e200)) {
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
        squares = math.sum_squares(scratch.data(), d);
    }
    if (!std::isfinite(squares)) return {0.0, 0, RowState::not_finite};
    length.norm = std::sqrt(squares);
    length.state = squares > 0.0 ? RowState::good : RowState::zero;
    return length;
}

// The row itself, or its rescaled copy.
const void* usable(const void* row, int64_t d, int exponent, std::vector<double>& scratch) {
    if (exponent == 0) return row;
    const auto* x = static_cast<const double*>(row);
    scratch.resize(static_cast<size_t>(d));
    for (int64_t k = 0; k < d; ++k) scratch[k] = std::ldexp(x[k], exponent);
    return scratch.data();
}

// Adds the blocks' sums in the order of the blocks, whoever finishes first. A sum that is early waits here
// and its thread goes on, unless it is so early that too many would wait.
class OrderedSum {
  public:
    OrderedSum(int64_t dimension, int threads, const std::atomic<bool>& stop)
        : total_(static_cast<size_t>(dimension), 0.0), most_early_(4 * threads), stop_(stop) {}

    void add(int64_t block, std::vector<double> part) {
        std::unique_lock lock(mutex_);
        while (!turn_.wait_for(lock, poll_interval, [&] { return block < next_ + most_early_; })) {
            if (stop_) return;
        }
        early_.emplace(block, std::move(part));
        while (!early_.empty() && early_.begin()->first == next_) {
            const std::vector<double>& next = early_.begin()->second;
            for (size_t k = 0; k < total_.size(); ++k) total_[k] += next[k];
            early_.erase(early_.begin());
            ++next_;
        }
        turn_.notify_all();
    }

    std::vector<double> take() { return std::move(total_); }

  private:
    std::vector<double> total_;
    const int64_t most_early_;
    const std::atomic<bool>& stop_;
    std::mutex mutex_;
    std::condition_variable turn_;
    std::map<int64_t, std::vector<double>> early_;
    int64_t next_ = 0;
};

void refuse_bad_rows(const std::vector<RowLength>& lengths, const double* learnability, ZeroRows zero_rows) {
    static constexpr size_t shown = 5;
    std::vector<int64_t> not_finite, zero;
    for (size_t i = 0; i < lengths.size(); ++i) {
        if (lengths[i].state == RowState::not_finite) not_finite.push_back(static_cast<int64_t>(i));
        if (lengths[i].state == RowState::zero && learnability[i] > 0.0)
            zero.push_back(static_cast<int64_t>(i));
    }
    const auto list = [](const std::vector<int64_t>& rows) {
        std::string text;
        for (size_t k = 0; k < std::min(rows.size(), shown); ++k)
            text += (k ? ", " : "") + std::to_string(rows[k]);
        return text + (rows.size() > shown ? ", ... (" + std::to_string(rows.size()) + " rows)" : "");
    };
    if (!not_finite.empty()) {
        throw Error(ErrorKind::array, "phi must be finite: NaN or infinity in row " + list(not_finite) +
                                          "; drop or repair these rows");
    }
    if (!zero.empty() && zero_rows == ZeroRows::refused) {
        throw Error(ErrorKind::array,
                    "phi has no direction (all zeros, though 0 < success rate < 1) in row " + list(zero) +
                        "; drop these rows or compute their gradients");
    }
}

struct Job {
    const RowSource& source;
    const double* learnability;
    const RowMath& math;
    int64_t rows;
    int threads;
    const Poll& poll;

    int64_t blocks() const { return (rows + block_rows - 1) / block_rows; }
    int64_t end_of(int64_t block) const { return std::min(rows, (block + 1) * block_rows); }
};

// The sum of the weighted rows of one block, in the order of the rows. Some rows are collected while they are
// in the second-level cache, then added tile by tile of columns, so that the tile's sums stay in the first.
class BlockSum {
  public:
    BlockSum(const Job& job, double weight_unit) : job_(job) {
        const int64_t d = job.source.dimension;
        const auto row_bytes = static_cast<int64_t>(item_bytes(job.source.dtype)) * d;
        most_rows_ = group_rows * std::clamp<int64_t>(cached_bytes / (group_rows * (row_bytes + 1)), 1, 8);
        sum_.total.resize(static_cast<size_t>(d), 0.0);
        if (job.source.dtype == Dtype::int8) sum_.fixed = FixedSum(weight_unit, d);
    }

    void add(const void* row, double weight) {
        rows_.push_back(row);
        weights_.push_back(weight);
        if (static_cast<int64_t>(rows_.size()) == most_rows_) flush();
    }

    void flush() {
        const int64_t d = job_.source.dimension, rows = static_cast<int64_t>(rows_.size());
        for (int64_t begin = 0; begin < d; begin += tile_columns) {
            const Tile tile{begin, std::min(d, begin + tile_columns), rows * d};
            for (int64_t r = 0; r < rows; r += group_rows) {
                const int count = static_cast<int>(std::min<int64_t>(group_rows, rows - r));
                job_.math.add_rows(&rows_[r], &weights_[r], count, sum_, tile);
            }
        }
        rows_.clear();
        weights_.clear();
    }

    std::vector<double> take() {
        flush();
        if (job_.source.dtype == Dtype::int8) sum_.fixed.add_to(sum_.total);
        return std::move(sum_.total);
    }

  private:
    static constexpr int64_t cached_bytes = 192 << 10;
    const Job& job_;
    int64_t most_rows_;
    RowSum sum_;
    std::vector<const void*> rows_;
    std::vector<double> weights_;
};

// First pass: every row's length, and sum_j V_j u_j.
std::vector<double> sum_rows(const Job& job, std::vector<RowLength>& lengths) {
    const int64_t d = job.source.dimension;
    const double largest = *std::max_element(job.learnability, job.learnability + job.rows);
    const double weight_unit =
        fixed_unit(largest);  // an int8 row is no shorter than 1, so no weight is larger
    std::atomic<bool> stop{false};
    OrderedSum total(d, job.threads, stop);
    parallel_blocks(job.blocks(), job.threads, job.poll, stop, [&](int64_t block) {
        RowCursor cursor(job.source);
        BlockSum part(job, weight_unit);
        std::vector<double> scratch;
        for (int64_t i = block * block_rows; i < job.end_of(block); ++i) {
            const void* row = cursor.at(i);
            lengths[i] = measure(row, d, job.source.dtype, job.math, scratch);
            if (lengths[i].state != RowState::good || job.learnability[i] == 0.0) continue;
            part.add(usable(row, d, lengths[i].exponent, scratch), job.learnability[i] / lengths[i].norm);
            if (lengths[i].exponent != 0) part.flush();  // before the scratch is used again
        }
        total.add(block, part.take());
    });
    return total.take();
}

struct Result {
    double* score;
    double* alignment;
};

// Second pass: every row against the mean, two at once.
void dot_rows(const Job& job, const std::vector<RowLength>& lengths, const std::vector<double>& mean,
              Result result) {
    const int64_t d = job.source.dimension;
    const double mean_norm = std::sqrt(row_math(Dtype::float64, Simd::portable).sum_squares(mean.data(), d));
    const Direction direction{mean, job.source.dtype == Dtype::int8 ? FixedVector(mean) : FixedVector()};
    const auto write = [&](int64_t i, double dot) {
        const double projection = dot / lengths[i].norm;
        result.alignment[i] = std::clamp(projection / mean_norm, -1.0, 1.0);
        if (job.learnability[i] > 0.0) result.score[i] = job.learnability[i] * projection;
    };
    std::atomic<bool> stop{false};
    parallel_blocks(job.blocks(), job.threads, job.poll, stop, [&](int64_t block) {
        RowCursor cursor(job.source);
        std::vector<double> scratch[2];
        int64_t number[2];
        const void* row[2];
        int waiting = 0;
        const auto flush = [&] {
            double dots[2];
            if (waiting > 0) job.math.dot_two(row[0], row[waiting - 1], direction, d, dots);
            for (int w = 0; w < waiting; ++w) write(number[w], dots[w]);
            waiting = 0;
        };
        for (int64_t i = block * block_rows; i < job.end_of(block); ++i) {
            result.score[i] = result.alignment[i] = 0.0;
            if (lengths[i].state != RowState::good || mean_norm == 0.0) continue;
            row[waiting] = usable(cursor.at(i), d, lengths[i].exponent, scratch[waiting]);
            number[waiting] = i;
            if (++waiting == 2) flush();
        }
        flush();
    });
}

}  // namespace

void score_rows(const RowSource& source, const double* learnability, int64_t pool, ZeroRows zero_rows,
                int threads, const Poll& poll, double* score, double* alignment) {
    int64_t rows = 0;
    for (const auto& shard : source.shards) rows += shard.rows;
    if (rows == 0) return;
    if (pool < rows) {
        throw Error(ErrorKind::array, "pool_size must be at least the number of rows (" +
                                          std::to_string(rows) + "), found " + std::to_string(pool));
    }
    Job job{source, learnability, row_math(source.dtype, simd_path()), rows, 1, poll};
    job.threads = thread_count(threads, job.blocks());
    std::vector<RowLength> lengths(static_cast<size_t>(rows));
    std::vector<double> mean = sum_rows(job, lengths);
    refuse_bad_rows(lengths, learnability, zero_rows);
    for (double& m : mean) m /= static_cast<double>(pool);
    dot_rows(job, lengths, mean, {score, alignment});
}

}  // namespace learnalign
