// Arbitrary bytes as the index of a shard, with a short data file beside it (libFuzzer; `make fuzz`).
//
// Checksums would stop nearly every input at once, so the harness mends them: what is tested is everything
// behind them. Then the same files are opened for writing and repaired: what is left must be a sound shard.
#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "common/error.hpp"
#include "store/crc32c.hpp"
#include "store/store.hpp"

using namespace learnalign;

namespace {

const Poll no_poll = [] {};
const ShardShape shape{0, 4, Dtype::float16, 7};

std::string directory() {
    static const std::string path = [] {
        char name[] = "/dev/shm/fuzz-index-XXXXXX";
        if (::mkdtemp(name) == nullptr) std::abort();
        return std::string(name);
    }();
    return path;
}

void write_file(const std::string& name, const std::string& bytes) {
    const File file = File::open(directory() + "/" + name, O_RDWR | O_CREAT | O_TRUNC);
    file.write_at(0, bytes.data(), bytes.size());
}

void mend(std::string& bytes, size_t begin, size_t end) {
    const uint32_t crc = crc32c(bytes.data() + begin, end - begin);
    std::memcpy(bytes.data() + end, &crc, sizeof(crc));
}

// Gives every record of the first so many, as far as its length makes sense, the checksum of its bytes.
void mend_checksums(std::string& bytes, size_t records) {
    if (bytes.size() >= index_header_bytes) mend(bytes, 0, index_header_bytes - 4);
    for (size_t offset = index_header_bytes; records > 0 && offset + 40 <= bytes.size(); --records) {
        uint64_t length;
        std::memcpy(&length, bytes.data() + offset + 8, sizeof(length));
        if (length < 40 || length > bytes.size() - offset) return;
        mend(bytes, offset, offset + length - 4);
        offset += length;
    }
}

void require(bool holds) {
    if (!holds) std::abort();
}

void check_sound(const ShardIndex& index) {
    uint64_t rows = 0, end = 0;
    for (const Block& block : index.blocks) {
        require(block.place.first >= end && block.place.end > block.place.first);
        require(block.record_begin >= index_header_bytes && block.record_end <= index.file_bytes);
        end = block.place.end;
        rows += block.place.rows();
    }
    require(rows == index.rows() && rows == index.table.id_ends.size());
    require(rows == 0 || index.table.id_ends.back() == index.table.ids.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* input, size_t size) {
    if (size < 2) return 0;
    const bool finished = input[0] & 1;
    const size_t mended = input[0] >> 1, data_rows = input[1];
    std::string bytes(reinterpret_cast<const char*>(input + 2), size - 2);
    if (mended != 127) bytes.replace(0, std::min(bytes.size(), index_header_bytes), index_header(shape));
    mend_checksums(bytes, mended);
    const std::string name = finished ? "shard-00000.npy" : "shard-00000.npy.unfinished";
    ::unlink((directory() + "/shard-00000.npy").c_str());
    ::unlink((directory() + "/shard-00000.npy.unfinished").c_str());
    write_file("shard-00000.index", bytes);
    write_file(name, data_header(data_rows, shape.dimension, shape.dtype) +
                         std::string(data_rows * shape.row_bytes(), '\1'));
    const File data = File::open(directory() + "/" + name, O_RDONLY);
    const File file = File::open(directory() + "/shard-00000.index", O_RDWR);
    const std::string path = file.path();
    try {
        ShardIndex index = read_index(file, shape);
        check_sound(index);
        index.drop(index.beyond(data.size()));
        check_sound(index);
        damaged_blocks(data, index, 0, no_poll);
    } catch (const Error&) {
        return 0;  // refused: as good
    }
    const int descriptor = ::open(path.c_str(), O_RDWR);
    try {
        StoreWriter writer(directory(), descriptor, shape, 1, Verify::everything, no_poll);
        const float phi[8] = {1, 2, 3, 4, 5, 6, 7, 8};
        const double rates[2] = {0.5, 0.5};
        writer.append({"a", "b"}, rates, phi, no_poll);
        writer.close(no_poll);
    } catch (...) {
        std::abort();  // what could be read can be repaired
    }
    ::close(descriptor);
    const ShardIndex after = read_index(File::open(path, O_RDONLY), shape);
    check_sound(after);
    require(after.closed && after.rows() >= 2);
    require(
        damaged_blocks(File::open(directory() + "/shard-00000.npy", O_RDONLY), after, 0, no_poll).empty());
    return 0;
}
