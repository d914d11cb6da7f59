// One idea: IEEE arithmetic, whatever the process is set to.
//
// torch.set_flush_denormal(True), or a library that was linked with fast math, has the processor take numbers
// below the normal range for 0; a thread inherits that from the one that starts it. Scores, sums and stored
// rows would silently be others then, and others on every SIMD path.
#pragma once

#include <cstdint>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace learnalign {

// From here to the end of the scope the calling thread rounds to nearest and knows subnormal numbers.
class IeeeFloats {
#if defined(__x86_64__)
    using Control = uint32_t;                    // MXCSR
    static constexpr Control standard = 0x1f80;  // every exception masked, nothing flushed, to nearest
    static constexpr Control flags = 0x3f;       // exceptions that were met: kept
    static Control control() noexcept { return _mm_getcsr(); }
    static void set_control(Control value) noexcept { _mm_setcsr(value); }
#elif defined(__aarch64__)
    using Control = uint64_t;  // FPCR; what was met is in another register
    static constexpr Control standard = 0, flags = 0;
    static Control control() noexcept {
        Control value;
        asm volatile("mrs %0, fpcr" : "=r"(value));
        return value;
    }
    static void set_control(Control value) noexcept {
        asm volatile("msr fpcr, %0" : : "r"(value) : "memory");
    }
#else
    using Control = uint32_t;
    static constexpr Control standard = 0, flags = 0;
    static Control control() noexcept { return 0; }
    static void set_control(Control) noexcept {}
#endif

  public:
    IeeeFloats() noexcept : before_(set()) {}
    ~IeeeFloats() { restore(before_); }
    IeeeFloats(const IeeeFloats&) = delete;
    IeeeFloats& operator=(const IeeeFloats&) = delete;

    // What the scope does, in two steps: set() returns what restore() takes.
    static Control set() noexcept {
        const Control before = control();
        set_control(standard | (before & flags));
        return before;
    }
    static void restore(Control before) noexcept { set_control((before & ~flags) | (control() & flags)); }

  private:
    const Control before_;
};

}  // namespace learnalign
