#include "score/score.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "common/cpu.hpp"
#include "common/error.hpp"
#include "common/floats.hpp"
#include "score/cursor.hpp"
#include "score/rowmath.hpp"
#include "score/unitsum.hpp"

namespace learnalign {
namespace {

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

// Rows that have no direction, as the threads find them.
class BadRows {
  public:
    BadRows(const double* learnability, ZeroRows zero_rows)
        : learnability_(learnability), zero_rows_(zero_rows) {}

    void look_at(int64_t row, RowState state) {
        if (state == RowState::good) return;
        const bool zero = state == RowState::zero;
        if (zero && (zero_rows_ == ZeroRows::scored || learnability_[row] == 0.0)) return;
        const std::lock_guard lock(mutex_);
        (zero ? zero_ : not_finite_).push_back(row);
    }

    void refuse() {
        if (!not_finite_.empty()) {
            throw Error(ErrorKind::array, "phi must be finite: NaN or infinity in row " + list(not_finite_) +
                                              "; drop or repair these rows");
        }
        if (!zero_.empty()) {
            throw Error(ErrorKind::array,
                        "phi has no direction (all zeros, though 0 < success rate < 1) in row " +
                            list(zero_) + "; drop these rows or compute their gradients");
        }
    }

  private:
    static std::string list(std::vector<int64_t>& rows) {
        static constexpr size_t shown = 5;
        std::sort(rows.begin(), rows.end());
        std::string text;
        for (size_t k = 0; k < std::min(rows.size(), shown); ++k)
            text += (k ? ", " : "") + std::to_string(rows[k]);
        return text + (rows.size() > shown ? ", ... (" + std::to_string(rows.size()) + " rows)" : "");
    }

    const double* learnability_;
    const ZeroRows zero_rows_;
    std::mutex mutex_;
    std::vector<int64_t> not_finite_, zero_;
};

struct Job {
    const RowSource& source;
    const double* learnability;
    RowFormat format;
    int64_t rows;
    int threads;
    const Poll& poll;
    BadRows& bad;

    int64_t row_bytes() const { return static_cast<int64_t>(format.row_bytes()); }
    int64_t blocks() const { return (rows + block_rows - 1) / block_rows; }
    int64_t end_of(int64_t block) const { return std::min(rows, (block + 1) * block_rows); }
};

// Where scores go. Until a row's score is known its norm waits there: memory of its own would be fresh
// pages, whose clearing a million rows notice.
struct Result {
    double* score;
    double* alignment;

    void keep(int64_t row, const RowNorm& norm) const {
        score[row] = norm.norm;
        alignment[row] = norm.exponent;
    }
    RowNorm kept(int64_t row) const {
        const double norm = score[row];
        return {norm, static_cast<int>(alignment[row]), norm > 0.0 ? RowState::good : RowState::zero};
    }
};

// First pass: sum_j V_j u_j over rows that have a direction and V > 0, and every row's norm where there is
// room for it.
UnitSum sum_rows(const Job& job, const Result* norms) {
    const int64_t d = job.source.dimension;
    // V times a power of two, so that no weight comes near the ends of the range of float64.
    const double largest = *std::max_element(job.learnability, job.learnability + job.rows);
    const int exponent = largest > 0.0 ? std::max(std::ilogb(largest) + 10, -1000) : 0;
    const double scale = std::ldexp(1.0, -exponent);
    std::atomic<bool> stop{false};
    std::atomic<int64_t> summed{0};
    OrderedSum total(d, job.threads, stop);
    parallel_blocks(job.blocks(), job.threads, job.poll, stop, [&](int64_t block) {
        RowCursor cursor(job.source);
        BlockSum part(job.format);
        int64_t counted = 0;
        for (int64_t i = block * block_rows; i < job.end_of(block); ++i) {
            const RowNorm norm = part.add(cursor.at(i), job.learnability[i] * scale);
            job.bad.look_at(i, norm.state);
            if (norm.state == RowState::good && job.learnability[i] > 0.0) ++counted;
            if (norms != nullptr) norms->keep(i, norm);
        }
        summed += counted;
        total.add(block, part.take());
    });
    job.bad.refuse();
    std::vector<double> sum = total.take();
    for (double& s : sum) s = std::ldexp(s, exponent);
    return {std::move(sum), summed};
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

// Second pass, or the only one: every row against the mean, two at once.
class DotPass {
  public:
    DotPass(const Job& job, bool measured, const Mean& mean, Result result)
        : job_(job), measured_(measured), mean_(mean), result_(result) {}

    void run() {
        std::atomic<bool> stop{false};
        const bool in_one_go =
            !measured_ && mean_.norm != 0.0 && job_.format.math.measure_and_dot_two != nullptr;
        parallel_blocks(job_.blocks(), job_.threads, job_.poll, stop,
                        [&](int64_t block) { in_one_go ? measures_and_dots_of(block) : dots_of(block); });
    }

  private:
    static constexpr int64_t rows_ahead = 4;

    void dots_of(int64_t block) {
        const int64_t d = job_.source.dimension;
        RowCursor cursor(job_.source);
        std::vector<double> rescaled[2];
        int64_t number[2];
        double norms[2];
        const void* row[2];
        int waiting = 0;
        const int64_t quarters = measured_ ? 4 : 4 - measured_quarters(job_.format.dtype);
        const Ahead ahead = {rows_ahead * job_.row_bytes() + job_.row_bytes() * (4 - quarters) / 4, quarters};
        const auto flush = [&] {
            double dots[2];
            if (waiting > 0) {
                job_.format.math.dot_two(row[0], row[waiting - 1], *mean_.direction, d, ahead, dots);
            }
            for (int w = 0; w < waiting; ++w) write(number[w], dots[w] / norms[w]);
            waiting = 0;
        };
        for (int64_t i = block * block_rows; i < job_.end_of(block); ++i) {
            const void* found = cursor.at(i);
            const RowNorm norm = measured_ ? result_.kept(i) : measured(i, found, rescaled[waiting]);
            result_.score[i] = result_.alignment[i] = 0.0;
            if (norm.state != RowState::good || mean_.norm == 0.0) continue;
            row[waiting] = usable(found, d, norm.exponent, rescaled[waiting]);
            norms[waiting] = norm.norm;
            number[waiting] = i;
            if (++waiting == 2) flush();
        }
        flush();
    }

    void measures_and_dots_of(int64_t block) {
        RowCursor cursor(job_.source);
        const Ahead ahead = {rows_ahead * job_.row_bytes(), 4};
        for (int64_t i = block * block_rows; i < job_.end_of(block); i += 2) {
            const int64_t last = std::min(i + 1, job_.end_of(block) - 1);
            const void *a = cursor.at(i), *b = cursor.at(last);
            double squares[2], dots[2];
            job_.format.math.measure_and_dot_two(a, b, *mean_.direction, job_.source.dimension, ahead,
                                                 squares, dots);
            for (int64_t row = i; row <= last; ++row) {
                const RowNorm norm = norm_of(squares[row - i]);
                job_.bad.look_at(row, norm.state);
                result_.score[row] = result_.alignment[row] = 0.0;
                if (norm.state == RowState::good) write(row, dots[row - i] / norm.norm);
            }
        }
    }

    RowNorm measured(int64_t i, const void* row, std::vector<double>& rescaled) {
        const auto* fetched = static_cast<const uint8_t*>(row) + rows_ahead * job_.row_bytes();
        const RowNorm norm = measure(row, job_.format, rescaled, fetched);
        job_.bad.look_at(i, norm.state);
        return norm;
    }

    void write(int64_t i, double projection) {
        result_.alignment[i] = std::clamp(projection / mean_.norm, -1.0, 1.0);
        if (job_.learnability[i] > 0.0)
            result_.score[i] = job_.learnability[i] * std::ldexp(projection, mean_.exponent);
    }

    const Job& job_;
    const bool measured_;
    const Mean& mean_;
    Result result_;
};

Job job_of(const RowSource& source, const double* learnability, int threads, const Poll& poll, BadRows& bad) {
    int64_t rows = 0;
    for (const auto& shard : source.shards) rows += shard.rows;
    const RowFormat format{source.dtype, source.dimension, row_math(source.dtype, simd_path())};
    Job job{source, learnability, format, rows, 1, poll, bad};
    job.threads = thread_count(threads, job.blocks());
    return job;
}

}  // namespace

UnitSum sum_unit_rows(const RowSource& source, const double* learnability, ZeroRows zero_rows, int threads,
                      const Poll& poll) {
    const IeeeFloats ieee;
    BadRows bad(learnability, zero_rows);
    const Job job = job_of(source, learnability, threads, poll, bad);
    if (job.rows == 0) return {std::vector<double>(static_cast<size_t>(source.dimension), 0.0), 0};
    return sum_rows(job, nullptr);
}

void score_rows(const RowSource& source, const double* learnability, const double* total, int64_t pool,
                ZeroRows zero_rows, int threads, const Poll& poll, double* score, double* alignment) {
    const IeeeFloats ieee;
    BadRows bad(learnability, zero_rows);
    const Job job = job_of(source, learnability, threads, poll, bad);
    if (job.rows == 0) return;
    const Result result{score, alignment};
    std::vector<double> summed;
    if (total == nullptr) summed = sum_rows(job, &result).total;
    const Mean mean(total == nullptr ? summed.data() : total, source.dimension, pool, source.dtype);
    DotPass(job, total == nullptr, mean, result).run();
    bad.refuse();
}

}  // namespace learnalign
