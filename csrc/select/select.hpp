// One idea: which rows a strategy picks, given their scores.
#pragma once

#include <cstdint>
#include <vector>

#include "common/parallel.hpp"

namespace learnalign {

// The n best rows, best first: learnability > 0 before the others, then the higher score, then the lower row.
// Throws Error(array) on a NaN, naming the first row that holds one, or when n is outside [0, rows].
std::vector<int64_t> top(const double* score, const double* learnability, int64_t rows, int64_t n);

// A sparse matrix of similarities in CSR form: candidate j represents point indices[e] with weights[e], for e
// in [indptr[j], indptr[j + 1]).
struct Similarities {
    int64_t candidates;
    int64_t points;
    int64_t entries;
    const int64_t* indptr;   // [candidates + 1]
    const int64_t* indices;  // [entries]
    const float* weights;    // [entries]
};

struct Picks {
    std::vector<int64_t> rows;
    std::vector<double> gains;
};

// Greedy facility location: F(S) = sum over points i of max(0, max over j in S of w_ji); n times the
// candidate that adds most to F, of equals the lowest. Lazy (Minoux 1978): a gain never grows, so an old one
// is a bound and most are never computed again. A gain sums its terms in the order of the entries, in
// float64; rounding keeps that order of sums (a <= b gives fl(a + c) <= fl(b + c)), so the picks are those of
// the plain loop exactly. Throws Error(array) when n is outside [0, candidates] or the matrix is not one:
// indptr that falls or leaves the entries, an index outside [0, points) or twice in a row, a weight that is
// NaN or infinite.
Picks facility_location(const Similarities& similar, int64_t n, const Poll& poll);

}  // namespace learnalign
