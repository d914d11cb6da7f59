#include "crc32c.hpp"

#include <array>
#include <cstring>

#include "cpu.hpp"
#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace learnalign {
namespace {

// Slicing by eight: table[k][b] is the checksum of byte b followed by k zero bytes.
using Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Tables make_tables() {
    Tables table{};
    for (uint32_t b = 0; b < 256; ++b) {
        uint32_t crc = b;
        for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0x82f63b78u : 0u);
        table[0][b] = crc;
    }
    for (size_t k = 1; k < 8; ++k) {
        for (size_t b = 0; b < 256; ++b) {
            table[k][b] = (table[k - 1][b] >> 8) ^ table[0][table[k - 1][b] & 0xff];
        }
    }
    return table;
}

constexpr Tables tables = make_tables();

uint32_t update_by_table(uint32_t crc, const uint8_t* p, size_t size) {
    for (; size >= 8; p += 8, size -= 8) {
        uint64_t word;
        std::memcpy(&word, p, 8);
        word ^= crc;
        crc = 0;
        for (size_t k = 0; k < 8; ++k) crc ^= tables[7 - k][(word >> (8 * k)) & 0xff];
    }
    for (; size > 0; ++p, --size) crc = (crc >> 8) ^ tables[0][(crc ^ *p) & 0xff];
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) uint32_t update_by_instruction(uint32_t crc, const uint8_t* p,
                                                                 size_t size) {
    uint64_t wide = crc;
    for (; size >= 8; p += 8, size -= 8) {
        uint64_t word;
        std::memcpy(&word, p, 8);
        wide = _mm_crc32_u64(wide, word);
    }
    crc = static_cast<uint32_t>(wide);
    for (; size > 0; ++p, --size) crc = _mm_crc32_u8(crc, *p);
    return crc;
}
#endif

}  // namespace

uint32_t crc32c(const void* bytes, size_t size, uint32_t previous) {
    const auto* p = static_cast<const uint8_t*>(bytes);
#if defined(__x86_64__)
    if (has_crc32c_instruction()) return ~update_by_instruction(~previous, p, size);
#endif
    return ~update_by_table(~previous, p, size);
}

}  // namespace learnalign
