#include "common/cpu.hpp"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <string>
#include <string_view>

#include "common/error.hpp"
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace learnalign {
namespace {

bool machine_has_avx2() {
#if defined(__x86_64__)
    unsigned eax, ebx, ecx, edx;  // older clang does not know "f16c" by name
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
#else
    return false;
#endif
}

// Ice Lake, Zen 4 and later. The compiler's question includes whether the system keeps the registers.
bool machine_has_avx512() {
#if defined(__x86_64__)
    return machine_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
#else
    return false;
#endif
}

Simd best_path() {
    static const Simd best = machine_has_avx512() ? Simd::avx512
                             : machine_has_avx2() ? Simd::avx2
                                                  : Simd::portable;
    return best;
}

constexpr const char* names[] = {"portable", "avx2", "avx512"};  // as Simd counts them

}  // namespace

Simd simd_path() {
    const char* asked = std::getenv("LEARNALIGN_SIMD");
    if (asked == nullptr || *asked == '\0') return best_path();
    const auto* found = std::find(std::begin(names), std::end(names), std::string_view(asked));
    if (found == std::end(names)) {
        throw Error(ErrorKind::config,
                    std::string("LEARNALIGN_SIMD must be portable, avx2 or avx512, found \"") + asked +
                        "\": unset it to let the machine decide");
    }
    const auto path = static_cast<Simd>(found - names);
    if (path > best_path()) {
        throw Error(ErrorKind::config, std::string("LEARNALIGN_SIMD asks for ") + asked +
                                           ", which this machine lacks: unset it");
    }
    return path;
}

const char* simd_name(Simd path) {
    return names[static_cast<int>(path)];
}

bool has_crc32c_instruction() {
#if defined(__x86_64__)
    const char* asked = std::getenv("LEARNALIGN_SIMD");
    if (asked != nullptr && std::string_view(asked) == "portable") return false;
    return __builtin_cpu_supports("sse4.2");
#else
    return false;
#endif
}

}  // namespace learnalign
