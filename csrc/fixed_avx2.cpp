// The AVX2 path of fixed.hpp: the same integers, 16 products to an instruction.
#if defined(__x86_64__)
#include "fixed.hpp"

#include <immintrin.h>

#include <algorithm>

#define LEARNALIGN_AVX2 __attribute__((target("avx2")))

namespace learnalign {
namespace {

constexpr int64_t chunk = 4096;  // 256 steps * 2 products * 2^7 * 2^14 = 2^30 fits a 32-bit lane

LEARNALIGN_AVX2 inline __m256i load16(const int8_t* x) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
}

LEARNALIGN_AVX2 inline __m256i load(const void* x) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(x));
}

LEARNALIGN_AVX2 inline void store(void* x, __m256i value) {
    _mm256_storeu_si256(static_cast<__m256i*>(x), value);
}

LEARNALIGN_AVX2 inline int64_t add_up(__m256i lanes) {
    alignas(32) int32_t lane[8];
    store(lane, lanes);
    int64_t sum = 0;
    for (const int32_t l : lane) sum += l;
    return sum;
}

LEARNALIGN_AVX2 inline __m256i multiply_add(__m256i a, __m256i b, __m256i sum) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}

// Digit t of two weights, as the pair of 16-bit numbers that meets the bytes of a pair of rows.
int32_t pair(int16_t a, int16_t b) {
    return static_cast<int32_t>(static_cast<uint16_t>(a) |
                                (static_cast<uint32_t>(static_cast<uint16_t>(b)) << 16));
}

}  // namespace

LEARNALIGN_AVX2 void fixed_dot_two_avx2(const int8_t* a, const int8_t* b, const FixedVector& vector,
                                        int64_t d, int64_t* sums_a, int64_t* sums_b) {
    const int16_t* low = vector.columns.data();
    const int16_t *mid = low + d, *high = mid + d;
    std::fill_n(sums_a, digits, 0);
    std::fill_n(sums_b, digits, 0);
    const int64_t whole = d / 16 * 16;
    for (int64_t begin = 0; begin < whole; begin += chunk) {
        const int64_t end = std::min(whole, begin + chunk);
        __m256i a0 = _mm256_setzero_si256(), a1 = a0, a2 = a0, b0 = a0, b1 = a0, b2 = a0;
        for (int64_t k = begin; k < end; k += 16) {
            const __m256i x = load16(a + k), y = load16(b + k);
            const __m256i m0 = load(low + k), m1 = load(mid + k), m2 = load(high + k);
            a0 = multiply_add(x, m0, a0);
            b0 = multiply_add(y, m0, b0);
            a1 = multiply_add(x, m1, a1);
            b1 = multiply_add(y, m1, b1);
            a2 = multiply_add(x, m2, a2);
            b2 = multiply_add(y, m2, b2);
        }
        sums_a[0] += add_up(a0);
        sums_a[1] += add_up(a1);
        sums_a[2] += add_up(a2);
        sums_b[0] += add_up(b0);
        sums_b[1] += add_up(b1);
        sums_b[2] += add_up(b2);
    }
    for (int64_t k = whole; k < d; ++k) {
        for (int t = 0; t < digits; ++t) {
            sums_a[t] += int32_t{a[k]} * low[t * d + k];
            sums_b[t] += int32_t{b[k]} * low[t * d + k];
        }
    }
}

// Bytes of two rows are interleaved, so that one instruction multiplies both with their weights and adds. The
// count is fixed: the loop over rows must be unrolled, or its bookkeeping costs as much as the arithmetic.
LEARNALIGN_AVX2 void fixed_add_avx2(const int8_t* const* rows, const int16_t (*weights)[digits],
                                    FixedSum& sum, int64_t begin, int64_t end, int64_t ahead) {
    const size_t d = sum.columns.size() / digits;
    int32_t* low = sum.columns.data();
    int32_t *mid = low + d, *high = mid + d;
    int32_t pairs[fixed_group / 2][digits];
    for (int p = 0; p < fixed_group / 2; ++p) {
        for (int t = 0; t < digits; ++t) pairs[p][t] = pair(weights[2 * p][t], weights[2 * p + 1][t]);
    }
    const int8_t* row[fixed_group];
    std::copy_n(rows, fixed_group, row);
    int64_t k = begin;
    for (; k + 16 <= end; k += 16) {
        if (k % 64 == 0) {
            for (const int8_t* r : row)
                _mm_prefetch(reinterpret_cast<const char*>(r + k + ahead), _MM_HINT_T1);
        }
        __m256i low_a = load(low + k), low_b = load(low + k + 8);
        __m256i mid_a = load(mid + k), mid_b = load(mid + k + 8);
        __m256i high_a = load(high + k), high_b = load(high + k + 8);
#pragma GCC unroll 4
        for (int p = 0; p < fixed_group / 2; ++p) {
            const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row[2 * p] + k));
            const __m128i y = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row[2 * p + 1] + k));
            const __m256i xy_a = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(x, y));
            const __m256i xy_b = _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(x, y));
            const __m256i w0 = _mm256_set1_epi32(pairs[p][0]);
            low_a = multiply_add(xy_a, w0, low_a);
            low_b = multiply_add(xy_b, w0, low_b);
            const __m256i w1 = _mm256_set1_epi32(pairs[p][1]);
            mid_a = multiply_add(xy_a, w1, mid_a);
            mid_b = multiply_add(xy_b, w1, mid_b);
            const __m256i w2 = _mm256_set1_epi32(pairs[p][2]);
            high_a = multiply_add(xy_a, w2, high_a);
            high_b = multiply_add(xy_b, w2, high_b);
        }
        store(low + k, low_a);
        store(low + k + 8, low_b);
        store(mid + k, mid_a);
        store(mid + k + 8, mid_b);
        store(high + k, high_a);
        store(high + k + 8, high_b);
    }
    for (; k < end; ++k) {
        for (int r = 0; r < fixed_group; ++r) {
            for (int t = 0; t < digits; ++t) low[t * d + k] += int32_t{weights[r][t]} * row[r][k];
        }
    }
}

LEARNALIGN_AVX2 int64_t fixed_sum_squares_avx2(const int8_t* row, int64_t d) {
    int64_t total = 0;
    const int64_t whole = d / 32 * 32;
    for (int64_t begin = 0; begin < whole; begin += chunk) {
        const int64_t end = std::min(whole, begin + chunk);
        __m256i sum_a = _mm256_setzero_si256(), sum_b = sum_a;
        for (int64_t k = begin; k < end; k += 32) {
            const __m256i x = load16(row + k), y = load16(row + k + 16);
            sum_a = multiply_add(x, x, sum_a);
            sum_b = multiply_add(y, y, sum_b);
        }
        total += add_up(sum_a) + add_up(sum_b);
    }
    for (int64_t k = whole; k < d; ++k) total += int32_t{row[k]} * row[k];
    return total;
}

}  // namespace learnalign
#endif
