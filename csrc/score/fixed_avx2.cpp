// The AVX2 path of fixed.hpp: the same integers, 16 products to an instruction.
#if defined(__x86_64__)
#include "score/fixed.hpp"

#include <immintrin.h>

#include <algorithm>

#define LEARNALIGN_AVX2 __attribute__((target("avx2")))

namespace learnalign {
namespace {

constexpr int64_t chunk = 2048;  // 128 steps * 2 products * 2^7 * 2^15 = 2^30 fits a 32-bit lane

LEARNALIGN_AVX2 inline __m256i load16(const int8_t* x) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
}

LEARNALIGN_AVX2 inline __m256i load(const void* x) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(x));
}

LEARNALIGN_AVX2 inline void store(void* x, __m256i value) {
    _mm256_storeu_si256(static_cast<__m256i*>(x), value);
}

// sum += the lanes of 32 bits, pairwise.
LEARNALIGN_AVX2 inline void widen_into(__m256i lanes, __m256i& sum) {
    const __m256i low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(lanes)),
                  high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(lanes, 1));
    sum = _mm256_add_epi64(sum, _mm256_add_epi64(low, high));
}

LEARNALIGN_AVX2 inline int64_t add_up(__m256i lanes) {
    const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
    return _mm_cvtsi128_si64(two) + _mm_extract_epi64(two, 1);
}

LEARNALIGN_AVX2 inline __m256i multiply_add(__m256i a, __m256i b, __m256i sum) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}

LEARNALIGN_AVX2 inline void fetch(const char* where) {
    _mm_prefetch(where, _MM_HINT_T1);
}

// Digit t of two weights in every lane, as the pair of 16-bit numbers that meets the bytes of a pair of rows.
LEARNALIGN_AVX2 inline __m256i pair(int16_t a, int16_t b) {
    return _mm256_set1_epi32(static_cast<int32_t>(static_cast<uint16_t>(a) |
                                                  (static_cast<uint32_t>(static_cast<uint16_t>(b)) << 16)));
}

struct Digits {
    __m256i low, high;
};

// sum += x * y by digits of y.
LEARNALIGN_AVX2 inline void add_products(__m256i x, const Digits& y, Digits& sum) {
    sum = {multiply_add(x, y.low, sum.low), multiply_add(x, y.high, sum.high)};
}

// Bytes 0, 2, 4, ... and 1, 3, 5, ... as 16-bit numbers.
LEARNALIGN_AVX2 inline __m256i even_bytes(__m256i x) {
    return _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8);
}
LEARNALIGN_AVX2 inline __m256i odd_bytes(__m256i x) {
    return _mm256_srai_epi16(x, 8);
}

}  // namespace

LEARNALIGN_AVX2 void fixed_dot_two_avx2(const int8_t* a, const int8_t* b, const FixedVector& vector,
                                        int64_t d, Ahead ahead, int64_t* sums_a, int64_t* sums_b) {
    const int16_t *low = vector.columns.data(), *high = low + d;
    const __m256i zero = _mm256_setzero_si256();
    __m256i a_low = zero, a_high = zero, b_low = zero, b_high = zero;
    const int64_t whole = d / 64 * 64;
    for (int64_t begin = 0; begin < whole; begin += chunk) {
        const int64_t end = std::min(whole, begin + chunk);
        Digits sum_a = {zero, zero}, sum_b = sum_a;
        for (int64_t line = begin; line < end; line += 64) {
            if (ahead.is_due(line / 64)) {
                fetch(reinterpret_cast<const char*>(a) + ahead.at(line / 64));
                fetch(reinterpret_cast<const char*>(b) + ahead.at(line / 64));
            }
#pragma GCC unroll 4
            for (int64_t k = line; k < line + 64; k += 16) {
                const __m256i x = load16(a + k), y = load16(b + k);
                const Digits m = {load(low + k), load(high + k)};
                add_products(x, m, sum_a);
                add_products(y, m, sum_b);
            }
        }
        widen_into(sum_a.low, a_low);
        widen_into(sum_a.high, a_high);
        widen_into(sum_b.low, b_low);
        widen_into(sum_b.high, b_high);
    }
    sums_a[0] = add_up(a_low);
    sums_a[1] = add_up(a_high);
    sums_b[0] = add_up(b_low);
    sums_b[1] = add_up(b_high);
    for (int64_t k = whole; k < d; ++k) {
        for (int t = 0; t < digits; ++t) {
            sums_a[t] += int32_t{a[k]} * low[t * d + k];
            sums_b[t] += int32_t{b[k]} * low[t * d + k];
        }
    }
}

// The bytes of two rows are interleaved in twos, so that one instruction multiplies both rows with their
// weights and adds. Eight rows: with more, rows that lie a multiple of 4 KiB apart would drive each other out
// of the first-level cache.
LEARNALIGN_AVX2 void fixed_add_avx2(const int8_t* const* rows, const int16_t (*weights)[digits],
                                    FixedSum& sum, int64_t d, const void* next) {
    constexpr int pairs = group_rows / 2;
    int32_t *low = sum.columns.data(), *high = low + d;
    const auto* ahead = static_cast<const char*>(next);
    Digits weight[pairs];
    for (int p = 0; p < pairs; ++p) {
        const int16_t *a = weights[2 * p], *b = weights[2 * p + 1];
        weight[p] = {pair(a[0], b[0]), pair(a[1], b[1])};
    }
    const int64_t whole = d / 64 * 64;
    for (int64_t k = 0; k < whole; k += 32, ahead += 32 * group_rows * 3 / 4) {
        const int64_t place = k / 64 * 64 + k % 64 / 4;
        int32_t *lows = low + place, *highs = high + place;
        for (int line = 0; line < group_rows * 3 / 8; ++line) fetch(ahead + 64 * line);
        Digits s0 = {load(lows), load(highs)}, s1 = {load(lows + 16), load(highs + 16)},
               s2 = {load(lows + 32), load(highs + 32)}, s3 = {load(lows + 48), load(highs + 48)};
#pragma GCC unroll 4
        for (int p = 0; p < pairs; ++p) {
            const __m256i x = load(rows[2 * p] + k), y = load(rows[2 * p + 1] + k);
            const __m256i a = _mm256_unpacklo_epi16(x, y), b = _mm256_unpackhi_epi16(x, y);
            add_products(even_bytes(a), weight[p], s0);
            add_products(odd_bytes(a), weight[p], s1);
            add_products(even_bytes(b), weight[p], s2);
            add_products(odd_bytes(b), weight[p], s3);
            asm("" : "+x"(s0.low), "+x"(s1.low), "+x"(s2.low), "+x"(s3.low));
            asm("" : "+x"(s0.high), "+x"(s1.high), "+x"(s2.high), "+x"(s3.high));
        }
        const Digits sums[] = {s0, s1, s2, s3};
        for (int q = 0; q < 4; ++q) {
            store(lows + 16 * q, sums[q].low);
            store(highs + 16 * q, sums[q].high);
        }
    }
    for (int64_t k = whole; k < d; ++k) {
        for (int r = 0; r < group_rows; ++r) {
            low[k] += int32_t{weights[r][0]} * rows[r][k];
            high[k] += int32_t{weights[r][1]} * rows[r][k];
        }
    }
}

// |x| times |x| as bytes; only a row that holds -128, whose absolute value is no int8, goes the long way.
LEARNALIGN_AVX2 int64_t fixed_sum_squares_avx2(const int8_t* row, int64_t d, const void* next) {
    constexpr int64_t squares_chunk = int64_t{1} << 19;  // 2^13 steps of 8 squares below 2^14 fit a lane
    const auto* ahead = static_cast<const char*>(next);
    const __m256i one = _mm256_set1_epi16(1);
    __m256i seen = _mm256_setzero_si256(), all = seen;
    const int64_t whole = d / 256 * 256;
    for (int64_t begin = 0; begin < whole; begin += squares_chunk) {
        const int64_t end = std::min(whole, begin + squares_chunk);
        __m256i sum = _mm256_setzero_si256();
        for (int64_t four = begin; four < end; four += 256, ahead += 64) {
            fetch(ahead);
            for (int64_t k = four; k < four + 256; k += 64) {
                const __m256i x = _mm256_abs_epi8(load(row + k)), y = _mm256_abs_epi8(load(row + k + 32));
                seen = _mm256_or_si256(seen, _mm256_or_si256(x, y));
                sum = multiply_add(_mm256_maddubs_epi16(x, x), one, sum);
                sum = multiply_add(_mm256_maddubs_epi16(y, y), one, sum);
            }
        }
        widen_into(sum, all);
    }
    if (_mm256_movemask_epi8(seen) != 0) return fixed_sum_squares(row, d);
    int64_t total = add_up(all);
    for (int64_t k = whole; k < d; ++k) total += int32_t{row[k]} * row[k];
    return total;
}

}  // namespace learnalign
#endif
