#include "journal.hpp"

#include <algorithm>
#include <cstring>

#include "crc32c.hpp"
#include "error.hpp"

namespace learnalign {
namespace {

constexpr uint32_t format_version = 1;
constexpr char index_magic[] = "LALIGNIX";
constexpr uint32_t block_magic = 0x314b4c42;    // "BLK1"
constexpr uint32_t closing_magic = 0x31444e45;  // "END1"
constexpr size_t record_head_bytes = 32;
constexpr size_t entry_bytes = 8 + 8 + 4 + 4;  // success rate, norm, scale, length of the id
constexpr size_t crc_bytes = 4;
constexpr uint64_t largest_dimension = uint64_t{1} << 31;

struct RecordHead {
    uint32_t magic;
    uint32_t data_crc;
    uint64_t bytes;
    uint64_t first_row;
    uint64_t rows;
};
static_assert(sizeof(RecordHead) == record_head_bytes);

uint64_t round_up_to_8(uint64_t bytes) {
    return (bytes + 7) / 8 * 8;
}

template <class T>
T get(const uint8_t* bytes) {
    T value;
    std::memcpy(&value, bytes, sizeof(T));
    return value;
}

void append(std::string& out, const void* bytes, size_t size) {
    out.append(static_cast<const char*>(bytes), size);
}

template <class T>
void append(std::string& out, const std::vector<T>& values) {
    append(out, values.data(), values.size() * sizeof(T));
}

void seal(std::string& record) {
    const uint32_t crc = crc32c(record.data(), record.size());
    append(record, &crc, sizeof(crc));
}

// The record at `p`, if it is one: in bounds, of consistent length, and matching its checksum.
bool read_head(const uint8_t* p, uint64_t available, RecordHead& head) {
    if (available < record_head_bytes + 8) return false;
    std::memcpy(&head, p, sizeof(head));
    if (head.magic != block_magic && head.magic != closing_magic) return false;
    if (head.bytes > available || head.bytes < record_head_bytes + 8 || head.bytes % 8 != 0) return false;
    const uint64_t room = head.bytes - record_head_bytes - crc_bytes;
    if (head.rows > room / entry_bytes || (head.rows == 0) != (head.magic == closing_magic)) return false;
    uint64_t id_bytes = 0;
    const uint8_t* lengths = p + record_head_bytes + head.rows * (entry_bytes - 4);
    for (uint64_t i = 0; i < head.rows; ++i) {
        const uint32_t length = get<uint32_t>(lengths + 4 * i);
        if (length == 0 || length > largest_id_bytes) return false;
        id_bytes += length;
    }
    if (head.bytes != round_up_to_8(record_head_bytes + head.rows * entry_bytes + id_bytes + crc_bytes))
        return false;
    return crc32c(p, head.bytes - crc_bytes) == get<uint32_t>(p + head.bytes - crc_bytes);
}

template <class T>
const uint8_t* take(const uint8_t* p, uint64_t rows, std::vector<T>& column) {
    const size_t before = column.size();
    column.resize(before + rows);
    std::memcpy(column.data() + before, p, rows * sizeof(T));
    return p + rows * sizeof(T);
}

void take_rows(const uint8_t* record, const RecordHead& head, RowTable& table) {
    const uint8_t* p = record + record_head_bytes;
    p = take(p, head.rows, table.success_rate);
    p = take(p, head.rows, table.norm);
    p = take(p, head.rows, table.scale);
    const uint8_t* ids = p + 4 * head.rows;
    uint64_t end = table.ids.size();
    for (uint64_t i = 0; i < head.rows; ++i) {
        end += get<uint32_t>(p + 4 * i);
        table.id_ends.push_back(end);
    }
    append(table.ids, ids, end - table.ids.size());
}

// Valid records at or behind `offset`, up to largest_group. A hostile file gets a bounded number of tries.
uint64_t count_records(const std::string& bytes, uint64_t offset) {
    const auto* base = reinterpret_cast<const uint8_t*>(bytes.data());
    uint64_t found = 0;
    int tries = 4096;
    while (offset + record_head_bytes <= bytes.size() && found < largest_group && tries > 0) {
        RecordHead head;
        const uint32_t magic = get<uint32_t>(base + offset);
        if (magic == block_magic || magic == closing_magic) {
            --tries;
            if (read_head(base + offset, bytes.size() - offset, head)) {
                ++found;
                offset += head.bytes;
                continue;
            }
        }
        offset += 8;
    }
    return found;
}

void check_header(const uint8_t* p, const std::string& path, const ShardShape& expected) {
    if (std::memcmp(p, index_magic, 8) != 0 || crc32c(p, 60) != get<uint32_t>(p + 60)) {
        throw Error(ErrorKind::corrupt,
                    path +
                        " does not begin with the header of a sketch index: its first 64 bytes "
                        "are damaged, or it is another file; restore it or delete the store");
    }
    // Whoever opens a store compares its version and shape in store.json first, so a difference here is
    // damage.
    if (index_header(expected).compare(0, 60, reinterpret_cast<const char*>(p), 60) != 0) {
        throw Error(ErrorKind::corrupt,
                    path +
                        " was written for another store (its header disagrees with store.json); "
                        "restore the right file or delete the store");
    }
}

}  // namespace

std::string data_header(uint64_t rows, uint64_t dimension, Dtype dtype) {
    const char* descr = dtype == Dtype::float16 ? "<f2" : dtype == Dtype::int8 ? "|i1" : "<f4";
    std::string header("\x93NUMPY\x01\x00", 8);
    const auto rest = static_cast<uint16_t>(data_header_bytes - 10);
    append(header, &rest, sizeof(rest));
    header += std::string("{'descr': '") + descr + "', 'fortran_order': False, 'shape': (" +
              std::to_string(rows) + ", " + std::to_string(dimension) + "), }";
    header.resize(data_header_bytes - 1, ' ');
    return header + '\n';
}

std::string index_header(const ShardShape& shape) {
    std::string header(index_magic, 8);
    append(header, &format_version, 4);
    append(header, &shape.dtype, 4);
    append(header, &shape.dimension, 8);
    append(header, &shape.shard, 8);
    header.resize(index_header_bytes - crc_bytes, '\0');
    seal(header);
    return header;
}

std::string block_record(const RowTable& block, uint64_t first_row, uint32_t data_crc) {
    const uint64_t rows = block.rows();
    const uint64_t bytes =
        round_up_to_8(record_head_bytes + rows * entry_bytes + block.ids.size() + crc_bytes);
    const RecordHead head{block_magic, data_crc, bytes, first_row, rows};
    std::string record;
    record.reserve(bytes);
    append(record, &head, sizeof(head));
    append(record, block.success_rate);
    append(record, block.norm);
    append(record, block.scale);
    uint64_t begin = 0;
    for (const uint64_t end : block.id_ends) {
        const auto length = static_cast<uint32_t>(end - begin);
        append(record, &length, sizeof(length));
        begin = end;
    }
    record += block.ids;
    record.resize(bytes - crc_bytes, '\0');
    seal(record);
    return record;
}

std::string closing_record(uint64_t rows, uint32_t header_crc) {
    const RecordHead head{closing_magic, header_crc, record_head_bytes + 8, rows, 0};
    std::string record;
    append(record, &head, sizeof(head));
    record.resize(record_head_bytes + 8 - crc_bytes, '\0');
    seal(record);
    return record;
}

void ShardIndex::keep_blocks(size_t count) {
    if (count >= blocks.size()) return;
    closed = false;
    blocks.resize(count);
    valid_bytes = count > 0 ? blocks.back().record_end : index_header_bytes;
    const uint64_t rows = count > 0 ? blocks.back().first_row + blocks.back().rows : 0;
    table.success_rate.resize(rows);
    table.norm.resize(rows);
    table.scale.resize(rows);
    table.id_ends.resize(rows);
    table.ids.resize(rows > 0 ? table.id_ends.back() : 0);
}

void ShardIndex::keep_within(uint64_t data_bytes) {
    const uint64_t whole_rows =
        data_bytes > data_header_bytes ? (data_bytes - data_header_bytes) / shape.row_bytes() : 0;
    size_t count = blocks.size();
    while (count > 0 && blocks[count - 1].first_row + blocks[count - 1].rows > whole_rows) --count;
    keep_blocks(count);
}

ShardIndex read_index(const File& file, const ShardShape& expected) {
    if (expected.dimension == 0 || expected.dimension > largest_dimension) {
        throw Error(ErrorKind::store, "the dimension of a store must lie between 1 and 2147483648, found " +
                                          std::to_string(expected.dimension));
    }
    ShardIndex index;
    index.shape = expected;
    index.file_bytes = file.size();
    if (index.file_bytes < index_header_bytes) return index;
    std::string bytes(index.file_bytes, '\0');
    file.read_at(0, bytes.data(), bytes.size());
    const auto* base = reinterpret_cast<const uint8_t*>(bytes.data());
    check_header(base, file.path(), expected);

    uint64_t offset = index_header_bytes;
    RecordHead head;
    while (!index.closed && read_head(base + offset, bytes.size() - offset, head) &&
           head.first_row == index.rows()) {
        if (head.magic == closing_magic) {
            const std::string header = data_header(index.rows(), expected.dimension, expected.dtype);
            if (head.data_crc != crc32c(header.data(), header.size())) break;
            index.closed = true;
        } else {
            take_rows(base + offset, head, index.table);
            index.blocks.push_back({head.first_row, head.rows, head.data_crc, offset, offset + head.bytes});
        }
        offset += head.bytes;
    }
    index.valid_bytes = offset;
    if (offset < bytes.size()) {
        index.closed = false;
        index.good_records_behind = count_records(bytes, offset);
    }
    return index;
}

std::vector<size_t> damaged_blocks(const File& data, const ShardIndex& index, size_t first,
                                   const Poll& poll) {
    std::vector<size_t> damaged;
    std::vector<uint8_t> buffer(size_t{1} << 20);
    for (size_t b = first; b < index.blocks.size(); ++b) {
        const Block& block = index.blocks[b];
        uint64_t offset = data_header_bytes + block.first_row * index.shape.row_bytes();
        uint64_t left = block.rows * index.shape.row_bytes();
        uint32_t crc = 0;
        while (left > 0) {
            const auto part = static_cast<size_t>(std::min<uint64_t>(left, buffer.size()));
            data.read_at(offset, buffer.data(), part);
            crc = crc32c(buffer.data(), part, crc);
            offset += part;
            left -= part;
            poll();
        }
        if (crc != block.data_crc) damaged.push_back(b);
    }
    return damaged;
}

}  // namespace learnalign
