#include "select.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <queue>
#include <string>

#include "error.hpp"

namespace learnalign {
namespace {

[[noreturn]] void refuse(const std::string& what, int64_t candidate) {
    throw Error(ErrorKind::array, what + " in row " + std::to_string(candidate) + " of the similarities");
}

void check(const Similarities& similar) {
    const int64_t* indptr = similar.indptr;
    if (indptr[0] != 0 || indptr[similar.candidates] != similar.entries) {
        throw Error(ErrorKind::array, "indptr must begin with 0 and end with " +
                                          std::to_string(similar.entries) + " (the entries), found " +
                                          std::to_string(indptr[0]) + " and " +
                                          std::to_string(indptr[similar.candidates]));
    }
    for (int64_t j = 0; j < similar.candidates; ++j) {
        if (indptr[j + 1] < indptr[j]) refuse("indptr must not fall: it does", j);
    }
    std::vector<int64_t> seen_in(static_cast<size_t>(similar.points), -1);
    for (int64_t j = 0; j < similar.candidates; ++j) {
        for (int64_t e = indptr[j]; e < indptr[j + 1]; ++e) {
            const int64_t i = similar.indices[e];
            if (i < 0 || i >= similar.points) {
                refuse("indices must lie between 0 and " + std::to_string(similar.points - 1) + ", found " +
                           std::to_string(i),
                       j);
            }
            if (seen_in[i] == j) refuse("indices must differ, found " + std::to_string(i) + " twice", j);
            seen_in[i] = j;
            if (!std::isfinite(similar.weights[e])) refuse("weights must be finite: NaN or infinity", j);
        }
    }
}

struct Candidate {
    double gain;
    int64_t row;
    int64_t round;  // the number of picks when the gain was computed

    bool operator<(const Candidate& other) const {  // the largest is picked next
        return gain != other.gain ? gain < other.gain : row > other.row;
    }
};

// What is covered so far, and what a candidate would add.
class Coverage {
  public:
    Coverage(const Similarities& similar, const Poll& poll)
        : similar_(similar), poll_(poll), best_(static_cast<size_t>(similar.points), 0.0f) {}

    double gain(int64_t candidate) {
        double sum = 0.0;
        for (int64_t e = begin(candidate); e < end(candidate); ++e) {
            const double better =
                static_cast<double>(similar_.weights[e]) - static_cast<double>(best_[similar_.indices[e]]);
            sum += std::max(better, 0.0);
        }
        work_ += end(candidate) - begin(candidate) + 1;
        if (work_ > work_between_polls) {
            poll_();
            work_ = 0;
        }
        return sum;
    }

    void pick(int64_t candidate) {
        for (int64_t e = begin(candidate); e < end(candidate); ++e) {
            float& best = best_[similar_.indices[e]];
            best = std::max(best, similar_.weights[e]);
        }
    }

  private:
    static constexpr int64_t work_between_polls = int64_t{1} << 22;  // some milliseconds
    int64_t begin(int64_t candidate) const { return similar_.indptr[candidate]; }
    int64_t end(int64_t candidate) const { return similar_.indptr[candidate + 1]; }

    const Similarities& similar_;
    const Poll& poll_;
    std::vector<float> best_;
    int64_t work_ = 0;
};

}  // namespace

std::vector<int64_t> top(const double* score, const double* learnability, int64_t rows, int64_t n) {
    if (n < 0 || n > rows) {
        throw Error(ErrorKind::array, "n must lie between 0 and " + std::to_string(rows) +
                                          " (the rows), found " + std::to_string(n));
    }
    for (int64_t i = 0; i < rows; ++i) {
        if (std::isnan(score[i]) || std::isnan(learnability[i])) {
            throw Error(ErrorKind::array,
                        "scores and learnability must be numbers: NaN in row " + std::to_string(i));
        }
    }
    std::vector<int64_t> order(static_cast<size_t>(rows));
    std::iota(order.begin(), order.end(), int64_t{0});
    const auto better = [&](int64_t a, int64_t b) {
        const bool a_learnable = learnability[a] > 0.0, b_learnable = learnability[b] > 0.0;
        if (a_learnable != b_learnable) return a_learnable;
        if (score[a] != score[b]) return score[a] > score[b];
        return a < b;
    };
    if (n < rows) std::nth_element(order.begin(), order.begin() + n, order.end(), better);
    std::sort(order.begin(), order.begin() + n, better);
    order.resize(static_cast<size_t>(n));
    return order;
}

Picks facility_location(const Similarities& similar, int64_t n, const Poll& poll) {
    if (n < 0 || n > similar.candidates) {
        throw Error(ErrorKind::array, "n must lie between 0 and " + std::to_string(similar.candidates) +
                                          " (the candidates), found " + std::to_string(n));
    }
    check(similar);
    Coverage coverage(similar, poll);
    std::vector<Candidate> first;
    first.reserve(static_cast<size_t>(similar.candidates));
    for (int64_t j = 0; j < similar.candidates; ++j) first.push_back({coverage.gain(j), j, 0});
    std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(first));
    Picks picks;
    while (static_cast<int64_t>(picks.rows.size()) < n) {
        Candidate next = queue.top();
        queue.pop();
        const auto round = static_cast<int64_t>(picks.rows.size());
        if (next.round == round) {
            coverage.pick(next.row);
            picks.rows.push_back(next.row);
            picks.gains.push_back(next.gain);
        } else {
            queue.push({coverage.gain(next.row), next.row, round});
        }
    }
    return picks;
}

}  // namespace learnalign
