#include "store/sumfile.hpp"

#include <fcntl.h>

#include <cstring>

#include "store/crc32c.hpp"
#include "store/files.hpp"

namespace learnalign {
namespace {

constexpr char magic[] = "LALIGNSM";
constexpr uint32_t version = 1;
constexpr size_t head_bytes = 8 + 4 + 4 + 8;
constexpr size_t crc_bytes = 4;

void append(std::string& out, const void* bytes, size_t size) {
    out.append(static_cast<const char*>(bytes), size);
}

}  // namespace

std::string sum_bytes(const std::vector<double>& total, uint32_t index_digest) {
    const uint64_t dimension = total.size();
    std::string bytes(magic, 8);
    append(bytes, &version, 4);
    append(bytes, &index_digest, 4);
    append(bytes, &dimension, 8);
    append(bytes, total.data(), total.size() * sizeof(double));
    const uint32_t crc = crc32c(bytes.data(), bytes.size());
    append(bytes, &crc, crc_bytes);
    return bytes;
}

std::optional<std::vector<double>> read_sum(const std::string& path, uint64_t dimension,
                                            uint32_t index_digest) {
    if (!file_exists(path)) return std::nullopt;
    const File file = File::open(path, O_RDONLY);
    if (file.size() != head_bytes + dimension * sizeof(double) + crc_bytes) return std::nullopt;
    std::string bytes(file.size(), '\0');
    file.read_at(0, bytes.data(), bytes.size());
    std::vector<double> total(dimension);
    std::memcpy(total.data(), bytes.data() + head_bytes, dimension * sizeof(double));
    if (bytes != sum_bytes(total, index_digest)) return std::nullopt;  // every field of it is known
    return total;
}

}  // namespace learnalign
