// The walk over tiles and blocks, and the portable path.
#include "fold/fold.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "common/error.hpp"
#include "common/floats.hpp"

namespace learnalign {
namespace {

constexpr int64_t entries_a_thread =
    1 << 20;  // about half a millisecond: less than that does not pay for a thread

inline float flipped(float value, uint32_t sign_bit) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits ^= sign_bit << 31;
    std::memcpy(&value, &bits, 4);
    return value;
}

void add_rows_portable(const TileRows& rows, uint32_t column_tile, uint32_t swap, FoldKey key) {
    for (int k = 0; k < rows.count; ++k) {
        const PhiloxWords signs = philox({{rows.row[k], column_tile, key.layer, sign_stream}}, key.seed);
        for (uint32_t c = 0; c < fold_tile; ++c) {
            const uint32_t bit = signs.word[c / 32] >> c % 32 & 1;
            rows.target[k][c ^ swap] += flipped(rows.source[k][c], bit);
        }
    }
}

// Collects the rows of one tile that go to the blocks [first, last) of phi, and has them added, 8 at a time.
class TileFolder {
  public:
    TileFolder(const Band& band, FoldKey key, int64_t blocks, AddRows add)
        : band_(band), key_(key), blocks_(blocks), add_(add) {}

    void fold(const float* matrix, int64_t tile_row, int64_t tile_column, int64_t first, int64_t last,
              float* phi) {
        const int64_t global_row = band_.first_row + tile_row * fold_tile;
        const uint32_t column_tile = static_cast<uint32_t>(tile_column);
        const uint32_t mask =
            philox({{static_cast<uint32_t>(global_row / fold_tile), column_tile, key_.layer, bucket_stream}},
                   key_.seed)
                .word[0];
        const int64_t height = std::min(fold_tile, band_.rows - tile_row * fold_tile);
        const int64_t left = tile_column * fold_tile, width = std::min(fold_tile, band_.columns - left);
        const float* corner = matrix + tile_row * fold_tile * band_.columns + left;
        const uint32_t swap = mask % fold_tile;
        TileRows rows{};
        for (int64_t block = first; block < last; ++block) {
            // Which rows land here: (r ^ mask / 128) mod blocks = block, in rising order of r.
            for (int64_t r = (block ^ mask / fold_tile) & (blocks_ - 1); r < height; r += blocks_) {
                const int k = rows.count++;
                rows.source[k] = padded(corner + r * band_.columns, width, k);
                rows.target[k] = phi + block * fold_tile;
                rows.row[k] = static_cast<uint32_t>(global_row + r);
                if (rows.count < 8) continue;
                add_(rows, column_tile, swap, key_);
                rows.count = 0;
            }
        }
        if (rows.count > 0) add_(rows, column_tile, swap, key_);
    }

  private:
    const float* padded(const float* row, int64_t width, int k) {
        if (width == fold_tile) return row;
        std::copy_n(row, width, padding_[k]);
        std::fill(padding_[k] + width, padding_[k] + fold_tile, 0.0F);
        return padding_[k];
    }

    const Band& band_;
    FoldKey key_;
    int64_t blocks_;
    AddRows add_;
    float padding_[8][fold_tile];
};

void check(const Band& band, int64_t dimension) {
    if (dimension < fold_tile || (dimension & (dimension - 1)) != 0) {
        throw Error(ErrorKind::array, "the dimension must be a power of two of at least 128, found " +
                                          std::to_string(dimension));
    }
    if (band.first_row < 0 || band.first_row % fold_tile != 0) {
        throw Error(ErrorKind::array,
                    "first_row must be a multiple of 128, found " + std::to_string(band.first_row));
    }
    if (band.first_row + band.rows > INT64_C(1) << 32 || band.columns > INT64_C(1) << 32) {
        throw Error(ErrorKind::array, "a matrix must have at most 2^32 rows and columns");
    }
}

}  // namespace

PhiloxWords philox(const PhiloxWords& counter, uint64_t key) {
    uint32_t c0 = counter.word[0], c1 = counter.word[1], c2 = counter.word[2], c3 = counter.word[3];
    auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = UINT64_C(0xD2511F53) * c0, p1 = UINT64_C(0xCD9E8D57) * c2;
        c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
        c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c1 = static_cast<uint32_t>(p1);
        c3 = static_cast<uint32_t>(p0);
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return {{c0, c1, c2, c3}};
}

void fold_band(const Band& band, FoldKey key, int64_t dimension, int threads, const Poll& poll, Simd path,
               float* phi) {
    const IeeeFloats ieee;
    check(band, dimension);
    AddRows add = add_rows_portable;
#if defined(__x86_64__)
    if (path != Simd::portable) add = add_rows_avx2;
#endif
    const int64_t blocks = dimension / fold_tile;
    const int64_t tile_rows = (band.rows + fold_tile - 1) / fold_tile;
    const int64_t tile_columns = (band.columns + fold_tile - 1) / fold_tile;
    const int64_t entries = band.segments * band.rows * band.columns;
    const int workers = thread_count(threads, std::max<int64_t>(1, entries / entries_a_thread));
    int64_t shares = 1;  // of one segment's blocks; a power of two, so that they come out even
    while (workers > 1 && shares < blocks && band.segments * shares < 2 * workers) shares *= 2;

    const auto share_of_segment = [&](int64_t unit) {
        const int64_t segment = unit / shares, share = unit % shares;
        const int64_t first = blocks / shares * share, last = first + blocks / shares;
        TileFolder folder(band, key, blocks, add);
        for (int64_t row = 0; row < tile_rows; ++row) {
            for (int64_t column = 0; column < tile_columns; ++column) {
                folder.fold(band.entries + segment * band.rows * band.columns, row, column, first, last,
                            phi + segment * dimension);
            }
        }
    };
    if (workers == 1) {
        for (int64_t segment = 0; segment < band.segments; ++segment) share_of_segment(segment);
        return;
    }
    std::atomic<bool> stop{false};
    parallel_blocks(band.segments * shares, workers, poll, stop, share_of_segment);
}

}  // namespace learnalign
