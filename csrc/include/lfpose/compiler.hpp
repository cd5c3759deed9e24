// What differs between compilers.
#pragma once

// A function compiled for several x86 instruction sets, the best one chosen when the module is loaded.
#ifdef LFPOSE_TARGET_CLONES
#define LFPOSE_CLONES __attribute__((target_clones("default", "arch=haswell", "arch=x86-64-v4")))
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
