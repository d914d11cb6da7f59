// The AVX2 path of the fold: Philox of eight rows at once, then 16 registers a row. Target attributes instead
// of compiler flags, so that nothing else in this file may use an instruction the machine lacks.
#if defined(__x86_64__)
#include "fold/fold.hpp"

#include <immintrin.h>

#define LEARNALIGN_AVX2 __attribute__((target("avx2,f16c")))

namespace learnalign {
namespace {

struct Product {
    __m256i low, high;
};

// 32 x 32 -> 64 bits in every lane, low and high halves apart.
LEARNALIGN_AVX2 inline Product multiply(__m256i a, __m256i b) {
    const __m256i even = _mm256_mul_epu32(a, b);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), b);
    return {_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA),
            _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA)};
}

LEARNALIGN_AVX2 inline __m256i all(uint32_t value) {
    return _mm256_set1_epi32(static_cast<int32_t>(value));
}

// word[w][k] is sign word w of row k.
LEARNALIGN_AVX2 inline void philox_rows(const uint32_t* row, uint32_t column_tile, FoldKey key,
                                        uint32_t (*word)[8]) {
    __m256i c0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
    __m256i c1 = all(column_tile), c2 = all(key.layer), c3 = all(sign_stream);
    const __m256i m0 = all(0xD2511F53), m1 = all(0xCD9E8D57), w0 = all(0x9E3779B9), w1 = all(0xBB67AE85);
    __m256i k0 = all(static_cast<uint32_t>(key.seed)), k1 = all(static_cast<uint32_t>(key.seed >> 32));
    for (int round = 0; round < 10; ++round) {
        const Product p0 = multiply(c0, m0), p1 = multiply(c2, m1);
        c0 = _mm256_xor_si256(_mm256_xor_si256(p1.high, c1), k0);
        c2 = _mm256_xor_si256(_mm256_xor_si256(p0.high, c3), k1);
        c1 = p1.low;
        c3 = p0.low;
        k0 = _mm256_add_epi32(k0, w0);
        k1 = _mm256_add_epi32(k1, w1);
    }
    const __m256i words[4] = {c0, c1, c2, c3};
    for (int w = 0; w < 4; ++w) _mm256_storeu_si256(reinterpret_cast<__m256i*>(word[w]), words[w]);
}

}  // namespace

LEARNALIGN_AVX2 void add_rows_avx2(const TileRows& rows, uint32_t column_tile, uint32_t swap, FoldKey key) {
    uint32_t word[4][8];
    philox_rows(rows.row, column_tile, key, word);
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i swapped = _mm256_xor_si256(lane, all(swap % 8));  // entries within a register
    const __m256i top = all(0x80000000U);
    for (int k = 0; k < rows.count; ++k) {
        for (uint32_t v = 0; v < fold_tile / 8; ++v) {
            // Bit (c mod 32) moves to the sign bit's place.
            const __m256i shift = _mm256_sub_epi32(all(31 - v % 4 * 8), lane);
            const __m256i sign = _mm256_and_si256(_mm256_sllv_epi32(all(word[v / 4][k]), shift), top);
            const __m256 value =
                _mm256_xor_ps(_mm256_loadu_ps(rows.source[k] + v * 8), _mm256_castsi256_ps(sign));
            float* target = rows.target[k] + (v * 8 ^ (swap & ~7U));
            _mm256_storeu_ps(
                target, _mm256_add_ps(_mm256_loadu_ps(target), _mm256_permutevar8x32_ps(value, swapped)));
        }
    }
}

}  // namespace learnalign
#endif
