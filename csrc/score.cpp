#include "score.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "cpu.hpp"
#include "error.hpp"
#include "rowmath.hpp"
#include "unitsum.hpp"

namespace learnalign {
namespace {

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
    RowFormat format;
    int64_t rows;
    int threads;
    const Poll& poll;

    int64_t row_bytes() const { return static_cast<int64_t>(format.row_bytes()); }
    int64_t blocks() const { return (rows + block_rows - 1) / block_rows; }
    int64_t end_of(int64_t block) const { return std::min(rows, (block + 1) * block_rows); }
};

// First pass: every row's length, and sum_j V_j u_j.
std::vector<double> sum_rows(const Job& job, std::vector<RowLength>& lengths) {
    const int64_t d = job.source.dimension;
    // V times a power of two, so that no weight comes near the ends of the range of float64.
    const double largest = *std::max_element(job.learnability, job.learnability + job.rows);
    const int exponent = largest > 0.0 ? std::max(std::ilogb(largest) + 10, -1000) : 0;
    const double scale = std::ldexp(1.0, -exponent);
    std::atomic<bool> stop{false};
    OrderedSum total(d, job.threads, stop);
    parallel_blocks(job.blocks(), job.threads, job.poll, stop, [&](int64_t block) {
        RowCursor cursor(job.source);
        BlockSum part(job.format);
        for (int64_t i = block * block_rows; i < job.end_of(block); ++i)
            lengths[i] = part.add(cursor.at(i), job.learnability[i] * scale);
        total.add(block, part.take());
    });
    std::vector<double> sum = total.take();
    for (double& s : sum) s = std::ldexp(s, exponent);
    return sum;
}

// The mean, times the power of two that brings its largest entry below 1.
struct Mean {
    std::unique_ptr<const Direction> direction;  // nothing if the mean is 0
    int exponent = 0;
    double norm = 0.0;  // of the direction

    Mean(const double* total, int64_t d, int64_t pool, Dtype dtype) {
        std::vector<double> values(total, total + d);
        double largest = 0.0;
        for (double& m : values) largest = std::max(largest, std::fabs(m /= static_cast<double>(pool)));
        if (largest == 0.0) return;
        exponent = std::ilogb(largest) + 1;
        for (double& m : values) m = cut_weight(std::ldexp(m, -exponent), dtype);
        norm = std::sqrt(row_math(Dtype::float64, Simd::portable).measure(values.data(), d, nullptr));
        direction = std::make_unique<Direction>(std::move(values), dtype);
    }
};

struct Result {
    double* score;
    double* alignment;
};

// Second pass, or the only one: every row against the mean, two at once.
class DotPass {
  public:
    DotPass(const Job& job, std::vector<RowLength>& lengths, bool measured, const Mean& mean, Result result)
        : job_(job), lengths_(lengths), measured_(measured), mean_(mean), result_(result) {}

    void run() {
        std::atomic<bool> stop{false};
        parallel_blocks(job_.blocks(), job_.threads, job_.poll, stop, [&](int64_t block) { dots_of(block); });
    }

  private:
    static constexpr int64_t rows_ahead = 4;

    void dots_of(int64_t block) {
        const int64_t d = job_.source.dimension;
        RowCursor cursor(job_.source);
        std::vector<double> rescaled[2];
        int64_t number[2];
        const void* row[2];
        int waiting = 0;
        const auto flush = [&] {
            double dots[2];
            if (waiting > 0) {
                job_.format.math.dot_two(row[0], row[waiting - 1], *mean_.direction, d,
                                         rows_ahead * job_.row_bytes(), dots);
            }
            for (int w = 0; w < waiting; ++w) write(number[w], dots[w]);
            waiting = 0;
        };
        for (int64_t i = block * block_rows; i < job_.end_of(block); ++i) {
            result_.score[i] = result_.alignment[i] = 0.0;
            const void* found = cursor.at(i);
            if (!measured_) {
                const auto* next_pair = static_cast<const uint8_t*>(found) + 2 * job_.row_bytes();
                lengths_[i] = measure(found, job_.format, rescaled[waiting], next_pair);
            }
            if (lengths_[i].state != RowState::good || mean_.norm == 0.0) continue;
            row[waiting] = usable(found, d, lengths_[i].exponent, rescaled[waiting]);
            number[waiting] = i;
            if (++waiting == 2) flush();
        }
        flush();
    }

    void write(int64_t i, double dot) {
        const double projection = dot / lengths_[i].norm;
        result_.alignment[i] = std::clamp(projection / mean_.norm, -1.0, 1.0);
        if (job_.learnability[i] > 0.0)
            result_.score[i] = job_.learnability[i] * std::ldexp(projection, mean_.exponent);
    }

    const Job& job_;
    std::vector<RowLength>& lengths_;
    const bool measured_;
    const Mean& mean_;
    Result result_;
};

Job job_of(const RowSource& source, const double* learnability, int threads, const Poll& poll) {
    int64_t rows = 0;
    for (const auto& shard : source.shards) rows += shard.rows;
    const RowFormat format{source.dtype, source.dimension, row_math(source.dtype, simd_path())};
    Job job{source, learnability, format, rows, 1, poll};
    job.threads = thread_count(threads, job.blocks());
    return job;
}

}  // namespace

std::vector<double> sum_unit_rows(const RowSource& source, const double* learnability, ZeroRows zero_rows,
                                  int threads, const Poll& poll) {
    const Job job = job_of(source, learnability, threads, poll);
    if (job.rows == 0) return std::vector<double>(static_cast<size_t>(source.dimension), 0.0);
    std::vector<RowLength> lengths(static_cast<size_t>(job.rows));
    std::vector<double> total = sum_rows(job, lengths);
    refuse_bad_rows(lengths, learnability, zero_rows);
    return total;
}

void score_rows(const RowSource& source, const double* learnability, const double* total, int64_t pool,
                ZeroRows zero_rows, int threads, const Poll& poll, double* score, double* alignment) {
    const Job job = job_of(source, learnability, threads, poll);
    if (job.rows == 0) return;
    std::vector<RowLength> lengths(static_cast<size_t>(job.rows));
    std::vector<double> summed;
    if (total == nullptr) {
        summed = sum_rows(job, lengths);
        refuse_bad_rows(lengths, learnability, zero_rows);
    }
    const Mean mean(total == nullptr ? summed.data() : total, source.dimension, pool, source.dtype);
    DotPass(job, lengths, total == nullptr, mean, {score, alignment}).run();
    if (total != nullptr) refuse_bad_rows(lengths, learnability, zero_rows);
}

}  // namespace learnalign
