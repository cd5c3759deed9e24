// Compiler-specific macros.
#pragma once

// Targets of a function's versions: levels of the x86-64 ABI, which are checked by CPU features. A processor
// name, as in arch=haswell, would match only the few processors of that very name.
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12  // dispatches on single features only
#define LFPOSE_AVX2 "avx2"
#define LFPOSE_AVX512 "avx512f"
#else
#define LFPOSE_AVX2 "arch=x86-64-v3"
#define LFPOSE_AVX512 "arch=x86-64-v4"
#endif

// A function compiled for several x86 instruction sets, the best one chosen when the module is loaded.
#ifdef LFPOSE_TARGET_CLONES
#define LFPOSE_CLONES __attribute__((target_clones("default", LFPOSE_AVX2, LFPOSE_AVX512)))
#else
#define LFPOSE_CLONES
#endif

// Code that the CPU and the CUDA kernels share.
#ifdef __CUDACC__
#define LFPOSE_HD __host__ __device__
#else
#define LFPOSE_HD
#endif

#if defined(__GNUC__)
#define LFPOSE_RESTRICT __restrict__
#define LFPOSE_INLINE inline __attribute__((always_inline))
#define LFPOSE_PREFETCH(address) __builtin_prefetch(address, 0, 2)
#else
#define LFPOSE_RESTRICT
#define LFPOSE_INLINE inline
#define LFPOSE_PREFETCH(address) static_cast<void>(address)
#endif
