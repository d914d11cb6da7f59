#include "select/select.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "common/error.hpp"
#include "common/floats.hpp"

namespace learnalign {
namespace {

[[noreturn]] void refuse(const std::string& what, int64_t candidate) {
    throw Error(ErrorKind::array, what + " in row " + std::to_string(candidate) + " of the similarities");
}

// An index with its weight: a gain reads one stream of memory. Weights up to 0 are left out, they never
// count.
struct Entry {
    uint32_t point;
    float weight;
};

struct Graph {
    std::vector<int64_t> begin;  // [candidates + 1], into `entries`
    std::vector<Entry> entries;
};

Graph checked_graph(const Similarities& similar) {
    if (std::max(similar.points, similar.candidates) > std::numeric_limits<uint32_t>::max()) {
        throw Error(ErrorKind::array, "there may be 4294967295 candidates and as many points at most");
    }
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
    Graph graph;
    graph.begin.reserve(static_cast<size_t>(similar.candidates) + 1);
    graph.entries.reserve(static_cast<size_t>(similar.entries));
    std::vector<int64_t> seen_in(static_cast<size_t>(similar.points), -1);
    for (int64_t j = 0; j < similar.candidates; ++j) {
        graph.begin.push_back(static_cast<int64_t>(graph.entries.size()));
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
            if (similar.weights[e] > 0.0f)
                graph.entries.push_back({static_cast<uint32_t>(i), similar.weights[e]});
        }
    }
    graph.begin.push_back(static_cast<int64_t>(graph.entries.size()));
    return graph;
}

struct Candidate {
    double gain;
    uint32_t row;
    uint32_t round;  // the number of picks when the gain was computed

    bool before(const Candidate& other) const {
        return gain != other.gain ? gain > other.gain : row < other.row;
    }
};

// Candidates, the next to look at on top. A gain only falls, so a new one sinks from the top, in one pass;
// the standard heap would take it out and put it back in.
class Queue {
  public:
    explicit Queue(std::vector<Candidate> candidates) : heap_(std::move(candidates)) {
        for (size_t k = heap_.size() / 2; k-- > 0;) sink(k);
    }

    const Candidate& top() const { return heap_.front(); }

    void replace_top(const Candidate& candidate) {
        heap_.front() = candidate;
        sink(0);
    }

    void remove_top() {
        heap_.front() = heap_.back();
        heap_.pop_back();
        if (!heap_.empty()) sink(0);
    }

  private:
    void sink(size_t k) {
        const Candidate moving = heap_[k];
        for (size_t child; (child = 2 * k + 1) < heap_.size(); k = child) {
            if (child + 1 < heap_.size() && heap_[child + 1].before(heap_[child])) ++child;
            if (!heap_[child].before(moving)) break;
            heap_[k] = heap_[child];
        }
        heap_[k] = moving;
    }

    std::vector<Candidate> heap_;
};

// What is covered so far, and what a candidate would add.
class Coverage {
  public:
    Coverage(Graph graph, int64_t points, const Poll& poll)
        : graph_(std::move(graph)), poll_(poll), best_(static_cast<size_t>(points), 0.0f) {}

    double gain(int64_t candidate) {
        const Entry *entry = begin(candidate), *end = begin(candidate + 1);
        work_ += end - entry + 1;
        double sum = 0.0;
        for (; entry != end; ++entry) {
            const double better =
                static_cast<double>(entry->weight) - static_cast<double>(best_[entry->point]);
            sum += std::max(better, 0.0);
        }
        if (work_ > work_between_polls) {
            poll_();
            work_ = 0;
        }
        return sum;
    }

    void pick(int64_t candidate) {
        for (const Entry* entry = begin(candidate); entry != begin(candidate + 1); ++entry) {
            best_[entry->point] = std::max(best_[entry->point], entry->weight);
        }
    }

  private:
    static constexpr int64_t work_between_polls = int64_t{1} << 22;  // some milliseconds
    const Entry* begin(int64_t candidate) const { return graph_.entries.data() + graph_.begin[candidate]; }

    const Graph graph_;
    const Poll& poll_;
    std::vector<float> best_;
    int64_t work_ = 0;
};

}  // namespace

std::vector<int64_t> top(const double* score, const double* learnability, int64_t rows, int64_t n) {
    const IeeeFloats ieee;
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
    const IeeeFloats ieee;
    if (n < 0 || n > similar.candidates) {
        throw Error(ErrorKind::array, "n must lie between 0 and " + std::to_string(similar.candidates) +
                                          " (the candidates), found " + std::to_string(n));
    }
    Coverage coverage(checked_graph(similar), similar.points, poll);
    std::vector<Candidate> first;
    first.reserve(static_cast<size_t>(similar.candidates));
    for (int64_t j = 0; j < similar.candidates; ++j)
        first.push_back({coverage.gain(j), static_cast<uint32_t>(j), 0});
    Queue queue(std::move(first));
    Picks picks;
    while (static_cast<int64_t>(picks.rows.size()) < n) {
        const Candidate next = queue.top();
        const auto round = static_cast<uint32_t>(picks.rows.size());
        if (next.round == round) {
            coverage.pick(next.row);
            picks.rows.push_back(next.row);
            picks.gains.push_back(next.gain);
            queue.remove_top();
        } else {
            queue.replace_top({coverage.gain(next.row), next.row, round});
        }
    }
    return picks;
}

}  // namespace learnalign
