// One idea: the index of a shard, byte for byte (FORMAT.md). Reading trusts nothing: every size is checked
// before it is used, and the result is the longest prefix of valid records.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/dtype.hpp"
#include "common/parallel.hpp"
#include "store/files.hpp"

namespace learnalign {

constexpr size_t data_header_bytes = 4096;
constexpr size_t index_header_bytes = 64;
constexpr size_t largest_id_bytes = 65536;

// The header of the shard's .npy, padded to data_header_bytes.
std::string data_header(uint64_t rows, uint64_t dimension, Dtype dtype);

struct ShardShape {
    uint64_t shard = 0;
    uint64_t dimension = 0;
    Dtype dtype = Dtype::float16;
    uint32_t description_crc = 0;  // of store.json: what the rows were made with

    uint64_t row_bytes() const { return dimension * item_bytes(dtype); }
};

// Rows [first, end) of a data file.
struct RowRange {
    uint64_t first;
    uint64_t end;

    uint64_t rows() const { return end - first; }
};

struct Block {
    RowRange place;
    uint32_t data_crc;
    uint64_t record_begin;  // in the index
    uint64_t record_end;
};

// What the records say about rows, one entry a row.
struct RowTable {
    std::vector<double> success_rate;
    std::vector<double> norm;
    std::vector<float> scale;
    std::string ids;                // UTF-8, one after the other
    std::vector<uint64_t> id_ends;  // into `ids`

    uint64_t rows() const { return scale.size(); }
    void append(const RowTable& other, uint64_t begin, uint64_t end);
};

std::string index_header(const ShardShape& shape);
// The record that commits all rows of `block` as rows first_row, first_row + 1, ... of the shard.
std::string block_record(const RowTable& block, uint64_t first_row, uint32_t data_crc);
std::string closing_record(uint64_t end_row, uint32_t header_crc);

// What tells one sequence of header and records from another: the CRC-32C of the checksums at their ends.
// (That of all their bytes would not: where every part ends in its own checksum, it depends on their lengths
// alone.)
uint32_t extend_digest(uint32_t digest, const void* end);

struct ShardIndex {
    struct BadBytes {
        uint64_t begin;
        uint64_t end;
    };

    ShardShape shape;
    std::vector<Block> blocks;  // in the order of their rows, none overlapping another
    RowTable table;             // their rows, in that order
    bool closed = false;        // ends in a closing record, and nothing is damaged or was dropped
    uint32_t digest = 0;        // of the header and of the records in the order of `blocks`
    bool header_valid = false;
    std::vector<BadBytes> bad;  // bytes behind the header that are no valid record
    uint64_t file_bytes = 0;

    uint64_t rows() const { return table.rows(); }
    uint64_t end_row() const { return blocks.empty() ? 0 : blocks.back().place.end; }
    // Row ranges before end_row() that no block covers: they were excluded.
    std::vector<RowRange> holes() const;
    // The file begins with the header and the records of `blocks` in their order; returns where they end, or
    // 0 where that is not so.
    uint64_t records_end() const;
    // Drops the blocks with these ascending numbers and returns their rows.
    RowTable drop(const std::vector<size_t>& numbers);
    // Numbers of the blocks that a data file of this length does not hold in full.
    std::vector<size_t> beyond(uint64_t data_bytes) const;
};

// Every valid record of the file, whatever lies between. Throws Error(corrupt) when the file is no index, or
// another store's; Error(store) when it cannot be read. One shorter than a header is an empty index: its
// creation was interrupted.
ShardIndex read_index(const File& file, const ShardShape& expected);

// Puts a new index in the place of `old`, with the header and the records of `blocks` in their order: whole
// or not at all. It is locked before anyone else can open it.
File rewrite_index(const File& old, const ShardIndex& index);

// Numbers of the blocks from number `first` on whose bytes in the data file do not match their checksum.
std::vector<size_t> damaged_blocks(const File& data, const ShardIndex& index, size_t first, const Poll& poll);

}  // namespace learnalign
