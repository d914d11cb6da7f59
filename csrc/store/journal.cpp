#include "store/journal.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "common/error.hpp"
#include "store/crc32c.hpp"

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

// Where the next valid record behind a bad one begins, or the end. A hostile file gets a bounded number of
// tries.
uint64_t next_record(const uint8_t* base, uint64_t size, uint64_t offset, int& tries) {
    RecordHead head;
    for (offset += 8; offset < size && size - offset >= record_head_bytes && tries > 0; offset += 8) {
        const uint32_t magic = get<uint32_t>(base + offset);
        if (magic != block_magic && magic != closing_magic) continue;
        if (read_head(base + offset, size - offset, head)) return offset;
        --tries;
    }
    return size;
}

// True for the header of this very shard, false for a damaged one.
bool check_header(const uint8_t* p, const std::string& path, const ShardShape& expected) {
    if (std::memcmp(p, index_magic, 8) != 0 || crc32c(p, 60) != get<uint32_t>(p + 60)) return false;
    const std::string wanted = index_header(expected);
    struct Field {
        const char* name;
        size_t offset, bytes;
    };
    static constexpr Field fields[] = {
        {"format version", 8, 4},        {"dtype", 12, 4}, {"dimension", 16, 8}, {"shard number", 24, 8},
        {"crc32c of store.json", 32, 4},
    };
    std::string differences;
    for (const Field& field : fields) {
        uint64_t found = 0, asked = 0;
        std::memcpy(&found, p + field.offset, field.bytes);
        std::memcpy(&asked, wanted.data() + field.offset, field.bytes);
        if (found != asked) {
            differences += std::string(differences.empty() ? "" : "; ") + field.name + " " +
                           std::to_string(found) + " -> " + std::to_string(asked);
        }
    }
    if (differences.empty()) return true;
    throw Error(ErrorKind::corrupt, path +
                                        " was written for another store (stored -> expected: " + differences +
                                        "): put the right file in its place or delete the store");
}

// Blocks that do not overlap, by first row.
class Placement {
  public:
    bool place(const RowRange& range) {
        const auto next = end_of_.lower_bound(range.first);
        if (next != end_of_.end() && next->first < range.end) return false;
        if (next != end_of_.begin() && std::prev(next)->second > range.first) return false;
        end_of_.emplace_hint(next, range.first, range.end);
        return true;
    }

  private:
    std::map<uint64_t, uint64_t> end_of_;
};

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
    append(header, &shape.description_crc, 4);
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

std::string closing_record(uint64_t end_row, uint32_t header_crc) {
    const RecordHead head{closing_magic, header_crc, record_head_bytes + 8, end_row, 0};
    std::string record;
    append(record, &head, sizeof(head));
    record.resize(record_head_bytes + 8 - crc_bytes, '\0');
    seal(record);
    return record;
}

uint32_t extend_digest(uint32_t digest, const void* end) {
    return crc32c(static_cast<const uint8_t*>(end) - crc_bytes, crc_bytes, digest);
}

void RowTable::append(const RowTable& other, uint64_t begin, uint64_t end) {
    const auto extend = [&](auto& to, const auto& from) {
        to.insert(to.end(), from.begin() + static_cast<int64_t>(begin),
                  from.begin() + static_cast<int64_t>(end));
    };
    extend(success_rate, other.success_rate);
    extend(norm, other.norm);
    extend(scale, other.scale);
    uint64_t from = begin > 0 ? other.id_ends[begin - 1] : 0;
    for (uint64_t i = begin; i < end; ++i) {
        ids.append(other.ids, from, other.id_ends[i] - from);
        id_ends.push_back(ids.size());
        from = other.id_ends[i];
    }
}

std::vector<RowRange> ShardIndex::holes() const {
    std::vector<RowRange> found;
    uint64_t end = 0;
    for (const Block& block : blocks) {
        if (block.place.first > end) found.push_back({end, block.place.first});
        end = block.place.end;
    }
    return found;
}

uint64_t ShardIndex::records_end() const {
    if (!header_valid) return 0;
    uint64_t end = index_header_bytes;
    for (const Block& block : blocks) {
        if (block.record_begin != end) return 0;
        end = block.record_end;
    }
    return end;
}

RowTable ShardIndex::drop(const std::vector<size_t>& numbers) {
    RowTable dropped, kept;
    if (numbers.empty()) return dropped;
    closed = false;
    std::vector<Block> kept_blocks;
    auto next = numbers.begin();
    uint64_t row = 0;
    for (size_t b = 0; b < blocks.size(); ++b) {
        const bool drop = next != numbers.end() && *next == b;
        const uint64_t end = row + blocks[b].place.rows();
        (drop ? dropped : kept).append(table, row, end);
        if (drop) {
            ++next;
        } else {
            kept_blocks.push_back(blocks[b]);
        }
        row = end;
    }
    blocks = std::move(kept_blocks);
    table = std::move(kept);
    return dropped;
}

std::vector<size_t> ShardIndex::beyond(uint64_t data_bytes) const {
    const uint64_t whole_rows =
        data_bytes > data_header_bytes ? (data_bytes - data_header_bytes) / shape.row_bytes() : 0;
    std::vector<size_t> numbers;
    for (size_t b = 0; b < blocks.size(); ++b) {
        if (blocks[b].place.end > whole_rows) numbers.push_back(b);
    }
    return numbers;
}

namespace {

// The records of an index in the order of the file: what is valid goes to `index.blocks`, the rest to
// `index.bad`.
void walk_records(const uint8_t* base, uint64_t size, ShardIndex& index) {
    const uint64_t row_bytes = index.shape.row_bytes();
    Placement placement;
    uint64_t offset = index_header_bytes, closing_row = 0;
    uint32_t closing_crc = 0;
    bool ends_closed = false;
    int tries = 4096;
    while (offset < size) {
        RecordHead head;
        const uint8_t* p = base + offset;
        uint64_t end_row = 0, end_byte = 0;
        const bool valid = read_head(p, size - offset, head) &&
                           !__builtin_add_overflow(head.first_row, head.rows, &end_row) &&
                           !__builtin_mul_overflow(end_row, row_bytes, &end_byte) &&
                           (head.magic == closing_magic || placement.place({head.first_row, end_row}));
        if (!valid) {
            --tries;
            const uint64_t next = next_record(base, size, offset, tries);
            index.bad.push_back({offset, next});
            offset = next;
            ends_closed = false;
            continue;
        }
        ends_closed = head.magic == closing_magic;
        if (ends_closed) {
            closing_row = head.first_row;
            closing_crc = head.data_crc;
            if (offset + head.bytes < size) index.bad.push_back({offset, offset + head.bytes});
        } else {
            index.blocks.push_back({{head.first_row, end_row}, head.data_crc, offset, offset + head.bytes});
        }
        offset += head.bytes;
    }
    std::sort(index.blocks.begin(), index.blocks.end(),
              [](const Block& a, const Block& b) { return a.place.first < b.place.first; });
    if (!ends_closed) return;
    const std::string header = data_header(index.end_row(), index.shape.dimension, index.shape.dtype);
    index.closed = closing_row == index.end_row() && closing_crc == crc32c(header.data(), header.size());
    if (!index.closed) index.bad.push_back({size - record_head_bytes - 8, size});
}

}  // namespace

ShardIndex read_index(const File& file, const ShardShape& expected) {
    if (expected.dimension == 0 || expected.dimension > largest_dimension) {
        throw Error(ErrorKind::store, "the dimension of a store must lie between 1 and 2147483648, found " +
                                          std::to_string(expected.dimension));
    }
    ShardIndex index;
    index.shape = expected;
    index.file_bytes = file.size();
    if (index.file_bytes < index_header_bytes) {
        if (index.file_bytes > 0) index.bad.push_back({0, index.file_bytes});
        return index;
    }
    std::string bytes(index.file_bytes, '\0');
    // A writer that resumes the shard may cut the file meanwhile: what is left says what counts.
    index.file_bytes = file.read_some(0, bytes.data(), bytes.size());
    bytes.resize(index.file_bytes);
    if (index.file_bytes < index_header_bytes) return index;
    const auto* base = reinterpret_cast<const uint8_t*>(bytes.data());
    index.header_valid = check_header(base, file.path(), expected);
    walk_records(base, bytes.size(), index);
    if (!index.header_valid && index.blocks.empty()) {
        throw Error(ErrorKind::corrupt,
                    file.path() +
                        " is no sketch index: its first 64 bytes are damaged and no record follows, "
                        "or it is another file; restore it or delete the store");
    }
    index.digest = extend_digest(0, base + index_header_bytes);
    for (const Block& block : index.blocks) {
        const RecordHead head = get<RecordHead>(base + block.record_begin);
        take_rows(base + block.record_begin, head, index.table);
        index.digest = extend_digest(index.digest, base + block.record_end);
    }
    index.closed = index.closed && index.header_valid && index.bad.empty();
    return index;
}

File rewrite_index(const File& old, const ShardIndex& index) {
    const std::string partial = old.path() + ".partial";
    File file = File::open(partial, O_RDWR | O_CREAT | O_TRUNC);
    file.lock();
    std::string bytes = index_header(index.shape);
    for (const Block& block : index.blocks) {
        const size_t begin = bytes.size();
        bytes.resize(begin + (block.record_end - block.record_begin));
        old.read_at(block.record_begin, bytes.data() + begin, bytes.size() - begin);
    }
    file.write_at(0, bytes.data(), bytes.size());
    file.sync();
    rename_file(partial, old.path());
    file.moved_to(old.path());
    return file;
}

std::vector<size_t> damaged_blocks(const File& data, const ShardIndex& index, size_t first,
                                   const Poll& poll) {
    std::vector<size_t> damaged;
    std::vector<uint8_t> buffer(size_t{1} << 20);
    for (size_t b = first; b < index.blocks.size(); ++b) {
        const Block& block = index.blocks[b];
        uint64_t offset = data_header_bytes + block.place.first * index.shape.row_bytes();
        uint64_t left = block.place.rows() * index.shape.row_bytes();
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
