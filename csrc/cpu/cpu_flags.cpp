#include "lfpose/cpu_flags.hpp"

#include <cstdint>

#include "lfpose/compiler.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#define LFPOSE_X86
#ifdef _MSC_VER
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

namespace lfpose {

#ifdef LFPOSE_X86
namespace {

enum Register { kEax, kEbx, kEcx, kEdx };

struct Leaf {
    std::uint32_t registers[4] = {};

    Leaf(std::uint32_t leaf, std::uint32_t subleaf) {
#ifdef _MSC_VER
        int found[4], most[4];
        __cpuid(most, 0);
        if (leaf > static_cast<std::uint32_t>(most[0])) return;
        __cpuidex(found, static_cast<int>(leaf), static_cast<int>(subleaf));
        for (int i = 0; i < 4; ++i) registers[i] = static_cast<std::uint32_t>(found[i]);
#else
        auto& [a, b, c, d] = registers;
        __get_cpuid_count(leaf, subleaf, &a, &b, &c, &d);  // leaves zeros if there is no such leaf
#endif
    }

    bool has(Register which, int bit) const { return (registers[which] >> bit & 1U) != 0; }
};

// The registers that the operating system saves when it switches threads (XCR0).
std::uint64_t kept_registers() {
    constexpr int kOsXsave = 27;
    if (!Leaf(1, 0).has(kEcx, kOsXsave)) return 0;
#ifdef _MSC_VER
    return _xgetbv(0);
#else
    std::uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return std::uint64_t{high} << 32 | low;
#endif
}

}  // namespace

std::vector<std::string> cpu_flags() {
    constexpr std::uint64_t kXmm = 0, kYmm = 0x6, kZmm = 0xe6;
    struct Flag {
        const char* name;
        std::uint32_t leaf, subleaf;
        Register which;
        int bit;
        std::uint64_t needs;
    };
    // Intel's Software Developer's Manual, volume 2A, CPUID.
    constexpr Flag kFlags[] = {
        {"sse4_2", 1, 0, kEcx, 20, kXmm},   {"avx2", 7, 0, kEbx, 5, kYmm},
        {"avx512bw", 7, 0, kEbx, 30, kZmm}, {"avx512_vnni", 7, 0, kEcx, 11, kZmm},
        {"avx_vnni", 7, 1, kEax, 4, kYmm},
    };
    const std::uint64_t kept = kept_registers();
    std::vector<std::string> found;
    for (const Flag& flag : kFlags) {
        const bool usable = (kept & flag.needs) == flag.needs;
        if (usable && Leaf(flag.leaf, flag.subleaf).has(flag.which, flag.bit)) found.emplace_back(flag.name);
    }
    return found;
}
#else
std::vector<std::string> cpu_flags() { return {}; }
#endif

namespace {

#ifdef LFPOSE_TARGET_CLONES
__attribute__((target("default"))) const char* chosen() { return "baseline"; }
__attribute__((target(LFPOSE_AVX2))) const char* chosen() { return "AVX2"; }
__attribute__((target(LFPOSE_AVX512))) const char* chosen() { return "AVX-512"; }
#else
const char* chosen() { return "baseline"; }
#endif

}  // namespace

const char* instruction_set() { return chosen(); }

}  // namespace lfpose
