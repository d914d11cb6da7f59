#include "store/crc32c.hpp"

#include <array>
#include <cstring>

#include "common/cpu.hpp"
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

uint64_t word_at(const uint8_t* p) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    return word;
}

uint32_t update_by_table(uint32_t crc, const uint8_t* p, size_t size) {
    for (; size >= 8; p += 8, size -= 8) {
        const uint64_t word = word_at(p) ^ crc;
        crc = 0;
        for (size_t k = 0; k < 8; ++k) crc ^= tables[7 - k][(word >> (8 * k)) & 0xff];
    }
    for (; size > 0; ++p, --size) crc = (crc >> 8) ^ tables[0][(crc ^ *p) & 0xff];
    return crc;
}

#if defined(__x86_64__)
// The instruction takes three cycles, but a new one can begin in each: three streams of this many bytes run
// side by side.
constexpr size_t stream_bytes = 1024;

// What stream_bytes zero bytes make of a checksum, by each of its four bytes: the map is linear in the bits.
using ZeroTables = std::array<std::array<uint32_t, 256>, 4>;

constexpr ZeroTables make_zero_tables() {
    ZeroTables after{};
    for (size_t k = 0; k < 4; ++k) {
        for (size_t bit = 0; bit < 8; ++bit) {
            uint32_t crc = uint32_t{1} << (8 * k + bit);
            for (size_t byte = 0; byte < stream_bytes; ++byte) crc = (crc >> 8) ^ tables[0][crc & 0xff];
            for (size_t low = 0; low < (size_t{1} << bit); ++low)
                after[k][(size_t{1} << bit) | low] = crc ^ after[k][low];
        }
    }
    return after;
}

constexpr ZeroTables zero_tables = make_zero_tables();

uint32_t after_zeros(uint64_t crc) {
    return zero_tables[0][crc & 0xff] ^ zero_tables[1][(crc >> 8) & 0xff] ^
           zero_tables[2][(crc >> 16) & 0xff] ^ zero_tables[3][(crc >> 24) & 0xff];
}

__attribute__((target("sse4.2"))) uint32_t update_by_instruction(uint32_t crc, const uint8_t* p,
                                                                 size_t size) {
    uint64_t wide = crc;
    for (; size >= 3 * stream_bytes; p += 3 * stream_bytes, size -= 3 * stream_bytes) {
        uint64_t second = 0, third = 0;
        for (size_t k = 0; k < stream_bytes; k += 8) {
            wide = _mm_crc32_u64(wide, word_at(p + k));
            second = _mm_crc32_u64(second, word_at(p + stream_bytes + k));
            third = _mm_crc32_u64(third, word_at(p + 2 * stream_bytes + k));
        }
        wide = after_zeros(after_zeros(wide) ^ second) ^ third;
    }
    for (; size >= 8; p += 8, size -= 8) wide = _mm_crc32_u64(wide, word_at(p));
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
