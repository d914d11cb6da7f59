// The AVX-512 path of fixed.hpp: the same integers, 32 products and their sums to an instruction (VNNI).
#if defined(__x86_64__)
#include "score/fixed.hpp"

#include <algorithm>

#include "common/avx512.hpp"

#define LEARNALIGN_AVX512 __attribute__((target("avx512f,avx512bw,avx512vnni")))

namespace learnalign {
namespace {

constexpr int64_t chunk = 4096;  // 128 steps * 2 products * 2^7 * 2^15 = 2^30 fits a 32-bit lane

LEARNALIGN_AVX512 inline __m512i load(const void* x) {
    return _mm512_loadu_si512(x);
}

LEARNALIGN_AVX512 inline __m512i load32(const int8_t* x) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}

LEARNALIGN_AVX512 inline void fetch(const char* where) {
    _mm_prefetch(where, _MM_HINT_T1);
}

// The lanes of 32 bits, added up.
LEARNALIGN_AVX512 inline int64_t add_up(__m512i lanes) {
    const __m512i low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(lanes)),
                  high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(lanes, 1));
    return _mm512_reduce_add_epi64(_mm512_add_epi64(low, high));
}

struct Digits {
    __m512i low, high;
};

// sum += x * y by digits of y, two products to a lane.
LEARNALIGN_AVX512 inline void add_products(__m512i x, const Digits& y, Digits& sum) {
    sum = {_mm512_dpwssd_epi32(sum.low, x, y.low), _mm512_dpwssd_epi32(sum.high, x, y.high)};
}

LEARNALIGN_AVX512 inline void add_up_into(const Digits& sum, int64_t* sums) {
    sums[0] += add_up(sum.low);
    sums[1] += add_up(sum.high);
}

// Two weights in every lane, as the pairs of 16-bit numbers that meet the bytes of a pair of rows.
LEARNALIGN_AVX512 inline Digits weights_of(const int16_t* a, const int16_t* b) {
    const auto pair = [](int16_t x, int16_t y) {
        return static_cast<int32_t>(static_cast<uint16_t>(x) | uint32_t{static_cast<uint16_t>(y)} << 16);
    };
    return {_mm512_set1_epi32(pair(a[0], b[0])), _mm512_set1_epi32(pair(a[1], b[1]))};
}

// Bytes 0, 2, 4, ... and 1, 3, 5, ... as 16-bit numbers.
LEARNALIGN_AVX512 inline __m512i even_bytes(__m512i x) {
    return _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8);
}
LEARNALIGN_AVX512 inline __m512i odd_bytes(__m512i x) {
    return _mm512_srai_epi16(x, 8);
}

// A row's products with the digits of a vector, and, where they are asked for, its squares: |x| times |x| as
// bytes.
template <bool squared>
struct RowSums {
    Digits first, second;
    __m512i square, seen;

    LEARNALIGN_AVX512 RowSums() : seen(_mm512_setzero_si512()) { clear(); }

    LEARNALIGN_AVX512 void clear() {
        square = _mm512_setzero_si512();
        first = second = {square, square};
    }
    LEARNALIGN_AVX512 void add(const int8_t* x, const Digits& y0, const Digits& y1) {
        add_products(load32(x), y0, first);
        add_products(load32(x + 32), y1, second);
        if constexpr (squared) {
            const __m512i size = _mm512_abs_epi8(load(x));
            seen = _mm512_or_si512(seen, size);
            square = _mm512_dpbusd_epi32(square, size, size);
        }
    }
    LEARNALIGN_AVX512 void move_to(int64_t* products, int64_t& squares) {
        add_up_into(first, products);
        add_up_into(second, products);
        if constexpr (squared) squares += add_up(square);
        clear();
    }
};

template <bool squared>
LEARNALIGN_AVX512 void multiply_two(const int8_t* a, const int8_t* b, const FixedVector& vector, int64_t d,
                                    Ahead ahead, int64_t* sums_a, int64_t* sums_b, int64_t* squares) {
    const int16_t *low = vector.columns.data(), *high = low + d;
    const int64_t whole = d / 64 * 64;
    sums_a[0] = sums_a[1] = sums_b[0] = sums_b[1] = squares[0] = squares[1] = 0;
    RowSums<squared> of_a, of_b;
    for (int64_t begin = 0; begin < whole; begin += chunk) {
        const int64_t end = std::min(whole, begin + chunk);
        for (int64_t k = begin; k < end; k += 64) {
            if (ahead.is_due(k / 64)) {
                fetch(reinterpret_cast<const char*>(a) + ahead.at(k / 64));
                fetch(reinterpret_cast<const char*>(b) + ahead.at(k / 64));
            }
            const Digits y0 = {load(low + k), load(high + k)}, y1 = {load(low + k + 32), load(high + k + 32)};
            of_a.add(a + k, y0, y1);
            of_b.add(b + k, y0, y1);
        }
        of_a.move_to(sums_a, squares[0]);
        of_b.move_to(sums_b, squares[1]);
    }
    for (int64_t k = whole; k < d; ++k) {
        for (int t = 0; t < digits; ++t) {
            sums_a[t] += int32_t{a[k]} * low[t * d + k];
            sums_b[t] += int32_t{b[k]} * low[t * d + k];
        }
        squares[0] += int32_t{a[k]} * a[k];
        squares[1] += int32_t{b[k]} * b[k];
    }
    if constexpr (squared) {
        if (_mm512_movepi8_mask(of_a.seen) != 0) squares[0] = fixed_sum_squares(a, d);
        if (_mm512_movepi8_mask(of_b.seen) != 0) squares[1] = fixed_sum_squares(b, d);
    }
}

}  // namespace

LEARNALIGN_AVX512 void fixed_dot_two_avx512(const int8_t* a, const int8_t* b, const FixedVector& vector,
                                            int64_t d, Ahead ahead, int64_t* sums_a, int64_t* sums_b) {
    int64_t unused[2];
    multiply_two<false>(a, b, vector, d, ahead, sums_a, sums_b, unused);
}

LEARNALIGN_AVX512 void fixed_measure_and_dot_two_avx512(const int8_t* a, const int8_t* b,
                                                        const FixedVector& vector, int64_t d, Ahead ahead,
                                                        int64_t* squares, int64_t* sums_a, int64_t* sums_b) {
    multiply_two<true>(a, b, vector, d, ahead, sums_a, sums_b, squares);
}

LEARNALIGN_AVX512 void fixed_add_avx512(const int8_t* const* rows, const int16_t (*weights)[digits],
                                        FixedSum& sum, int64_t d, const void* next) {
    constexpr int pairs = group_rows / 2, lines = group_rows * 3 / 4;
    int32_t *low = sum.columns.data(), *high = low + d;
    const auto* ahead = static_cast<const char*>(next);
    Digits weight[pairs];
    for (int p = 0; p < pairs; ++p) weight[p] = weights_of(weights[2 * p], weights[2 * p + 1]);
    int64_t k = 0;
    for (; k + 64 <= d; k += 64, ahead += 64 * lines) {
        for (int line = 0; line < lines; ++line) fetch(ahead + 64 * line);
        Digits s0 = {load(low + k), load(high + k)}, s1 = {load(low + k + 16), load(high + k + 16)},
               s2 = {load(low + k + 32), load(high + k + 32)}, s3 = {load(low + k + 48), load(high + k + 48)};
#pragma GCC unroll 4
        for (int p = 0; p < pairs; ++p) {
            const __m512i x = load(rows[2 * p] + k), y = load(rows[2 * p + 1] + k);
            const __m512i a = _mm512_unpacklo_epi16(x, y), b = _mm512_unpackhi_epi16(x, y);
            add_products(even_bytes(a), weight[p], s0);
            add_products(odd_bytes(a), weight[p], s1);
            add_products(even_bytes(b), weight[p], s2);
            add_products(odd_bytes(b), weight[p], s3);
        }
        const Digits sums[] = {s0, s1, s2, s3};
        for (int q = 0; q < 4; ++q) {
            _mm512_storeu_si512(low + k + 16 * q, sums[q].low);
            _mm512_storeu_si512(high + k + 16 * q, sums[q].high);
        }
    }
    for (; k < d; ++k) {
        for (int r = 0; r < group_rows; ++r) {
            low[k] += int32_t{weights[r][0]} * rows[r][k];
            high[k] += int32_t{weights[r][1]} * rows[r][k];
        }
    }
}

// |x| times |x| as bytes; only a row that holds -128, whose absolute value is no int8, goes the long way.
LEARNALIGN_AVX512 int64_t fixed_sum_squares_avx512(const int8_t* row, int64_t d, const void* next) {
    constexpr int64_t squares_chunk = int64_t{1}
                                      << 21;  // 2^13 steps of 4 squares below 2^14 in each of 4 sums
    constexpr int each_of_three = 0xfe;       // a | b | c
    const auto* ahead = static_cast<const char*>(next);
    const __m512i zero = _mm512_setzero_si512();
    __m512i seen = zero;
    int64_t total = 0;
    const int64_t whole = d / 256 * 256;
    for (int64_t begin = 0; begin < whole; begin += squares_chunk) {
        const int64_t end = std::min(whole, begin + squares_chunk);
        __m512i s0 = zero, s1 = zero, s2 = zero, s3 = zero;
        for (int64_t k = begin; k < end; k += 256, ahead += 64) {
            fetch(ahead);
            const __m512i x0 = _mm512_abs_epi8(load(row + k)), x1 = _mm512_abs_epi8(load(row + k + 64)),
                          x2 = _mm512_abs_epi8(load(row + k + 128)),
                          x3 = _mm512_abs_epi8(load(row + k + 192));
            seen = _mm512_ternarylogic_epi64(seen, x0, x1, each_of_three);
            seen = _mm512_ternarylogic_epi64(seen, x2, x3, each_of_three);
            s0 = _mm512_dpbusd_epi32(s0, x0, x0);
            s1 = _mm512_dpbusd_epi32(s1, x1, x1);
            s2 = _mm512_dpbusd_epi32(s2, x2, x2);
            s3 = _mm512_dpbusd_epi32(s3, x3, x3);
        }
        total += add_up(s0) + add_up(s1) + add_up(s2) + add_up(s3);
    }
    if (_mm512_movepi8_mask(seen) != 0) return fixed_sum_squares(row, d);
    for (int64_t k = whole; k < d; ++k) total += int32_t{row[k]} * row[k];
    return total;
}

}  // namespace learnalign
#endif
