// One idea: the signed fold of a weight matrix's rows into d buckets (definition: kernels/signs.py).
//
// Row r of a 128 x 128 tile lands, as a whole, in one of the d / 128 blocks of phi; the tile's mask says in
// which, and how its 128 entries are swapped about on the way. So blocks can be shared out to threads without
// partial sums, and every path and every number of threads adds in the same order: the bits do not change.
#pragma once

#include <cstdint>

#include "common/cpu.hpp"
#include "common/parallel.hpp"

namespace learnalign {

constexpr int64_t fold_tile = 128;

// Names the random map of one weight matrix.
struct FoldKey {
    uint64_t seed;
    uint32_t layer;
};

// Rows first_row (a multiple of 128) to first_row + rows of `segments` matrices, [segments, rows, columns].
struct Band {
    const float* entries;
    int64_t segments;
    int64_t rows;
    int64_t columns;
    int64_t first_row;
};

// Adds the band's fold to phi, [segments, dimension]; dimension is a power of two and at least 128. threads =
// 0 means every core. Throws Error(array) for a dimension or rows that do not fit.
void fold_band(const Band& band, FoldKey key, int64_t dimension, int threads, const Poll& poll, Simd path,
               float* phi);

// Philox-4x32-10 of one counter.
struct PhiloxWords {
    uint32_t word[4];
};
PhiloxWords philox(const PhiloxWords& counter, uint64_t key);

constexpr uint32_t sign_stream = 0;
constexpr uint32_t bucket_stream = 1;

// Up to 8 rows of one tile and where they go. Short rows are handed over padded to 128 entries.
struct TileRows {
    const float* source[8];
    float* target[8];  // block of phi
    uint32_t row[8];   // global row numbers, all eight valid
    int count;
};

// Adds the signed rows to their blocks: target[c ^ swap] += sign(row, c) * source[c]. One per SIMD path.
using AddRows = void (*)(const TileRows& rows, uint32_t column_tile, uint32_t swap, FoldKey key);
void add_rows_avx2(const TileRows& rows, uint32_t column_tile, uint32_t swap, FoldKey key);

}  // namespace learnalign
