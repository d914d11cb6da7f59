// One idea: CRC-32C (Castagnoli, RFC 3720), by instruction where there is one and by table elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

namespace learnalign {

// crc32c("123456789") == 0xe3069283. Pass the result back as `previous` to continue over more bytes.
uint32_t crc32c(const void* bytes, size_t size, uint32_t previous = 0);

}  // namespace learnalign
