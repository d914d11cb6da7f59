// One idea: which SIMD path runs. Every path gives the same bits, so the choice shows in the time only.
#pragma once

namespace learnalign {

enum class Simd { portable, avx2, avx512 };

// The best path of this machine, or the one LEARNALIGN_SIMD asks for (portable, avx2 or avx512).
// Throws Error(config) when that variable names a path that is unknown or that this machine lacks.
Simd simd_path();

const char* simd_name(Simd path);

// True where the SSE4.2 instruction for CRC32C exists and LEARNALIGN_SIMD does not ask for the portable path.
bool has_crc32c_instruction();

}  // namespace learnalign
