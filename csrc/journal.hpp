// One idea: the index of a shard, byte for byte (FORMAT.md). Reading trusts nothing: every size is checked
// before it is used, and the result is the longest prefix of valid records.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dtype.hpp"
#include "files.hpp"
#include "parallel.hpp"

namespace learnalign {

constexpr size_t data_header_bytes = 4096;
constexpr size_t index_header_bytes = 64;
constexpr size_t largest_group = 16;  // blocks that share one pair of syncs
constexpr size_t largest_id_bytes = 65536;

// The header of the shard's .npy, padded to data_header_bytes.
std::string data_header(uint64_t rows, uint64_t dimension, Dtype dtype);

struct ShardShape {
    uint64_t shard = 0;
    uint64_t dimension = 0;
    Dtype dtype = Dtype::float16;

    uint64_t row_bytes() const { return dimension * item_bytes(dtype); }
};

struct Block {
    uint64_t first_row;
    uint64_t rows;
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
};

std::string index_header(const ShardShape& shape);
// The record that commits all rows of `block` as rows first_row, first_row + 1, ... of the shard.
std::string block_record(const RowTable& block, uint64_t first_row, uint32_t data_crc);
std::string closing_record(uint64_t rows, uint32_t header_crc);

struct ShardIndex {
    ShardShape shape;
    std::vector<Block> blocks;
    RowTable table;
    bool closed = false;       // ends in a closing record, with nothing behind it
    uint64_t valid_bytes = 0;  // length of the valid prefix
    uint64_t file_bytes = 0;
    uint64_t good_records_behind =
        0;  // valid records behind the first bad byte (counted up to largest_group)

    uint64_t rows() const { return table.rows(); }
    // Drops blocks so that `count` remain; a shortened index is no longer closed.
    void keep_blocks(size_t count);
    // Drops the blocks that a data file of this length does not hold in full.
    void keep_within(uint64_t data_bytes);
};

// Throws Error(corrupt) when the header is damaged, Error(store) when the file cannot be read. A file shorter
// than its header is an empty index: its creation was interrupted.
ShardIndex read_index(const File& file, const ShardShape& expected);

// Numbers of the blocks in [first, end) whose bytes in the data file do not match their checksum.
std::vector<size_t> damaged_blocks(const File& data, const ShardIndex& index, size_t first, const Poll& poll);

}  // namespace learnalign
