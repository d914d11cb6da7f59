#include "common/cpu.hpp"

#include <cstdlib>
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

}  // namespace

Simd simd_path() {
    const char* asked = std::getenv("LEARNALIGN_SIMD");
    if (asked == nullptr || *asked == '\0') return machine_has_avx2() ? Simd::avx2 : Simd::portable;
    if (std::string_view(asked) == "portable") return Simd::portable;
    if (std::string_view(asked) != "avx2") {
        throw Error(ErrorKind::config, std::string("LEARNALIGN_SIMD must be portable or avx2, found \"") +
                                           asked + "\": unset it to let the machine decide");
    }
    if (!machine_has_avx2()) {
        throw Error(ErrorKind::config, "LEARNALIGN_SIMD asks for avx2, which this machine lacks: unset it");
    }
    return Simd::avx2;
}

const char* simd_name(Simd path) {
    return path == Simd::avx2 ? "avx2" : "portable";
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
