// Sixteen floats, or eight doubles, as one value. Most of this library's work is done by plain loops over
// arrays; these types are for reductions, whose accumulators compilers would otherwise keep in memory.
#pragma once

#include <cstring>

#include "lfpose/compiler.hpp"

namespace lfpose {

constexpr int kLanes = 16;

#if defined(__GNUC__) && (!defined(__clang__) || __clang_major__ >= 12) && \
    (defined(__clang__) || __GNUC__ >= 12)
#define LFPOSE_VECTOR_EXTENSION
#endif

// Defines a function whose body may use `kPart`, the number of floats in each vector of `Lanes<kPart>`: as
// many as an AVX-512 register holds where there is AVX-512, and four elsewhere. Compilers compare vectors
// wider than the registers one float at a time, which takes several times as long.
#ifdef LFPOSE_TARGET_CLONES
#define LFPOSE_BY_WIDTH(signature, ...)                \
    __attribute__((target("default"))) signature {     \
        constexpr int kPart = 4;                       \
        __VA_ARGS__                                    \
    }                                                  \
    __attribute__((target(LFPOSE_AVX2))) signature {   \
        constexpr int kPart = 4;                       \
        __VA_ARGS__                                    \
    }                                                  \
    __attribute__((target(LFPOSE_AVX512))) signature { \
        constexpr int kPart = kLanes;                  \
        __VA_ARGS__                                    \
    }
#else
#define LFPOSE_BY_WIDTH(signature, ...) \
    signature {                         \
        constexpr int kPart = 4;        \
        __VA_ARGS__                     \
    }
#endif

#ifdef LFPOSE_VECTOR_EXTENSION

// Explicit specialisations, because GCC accepts no vector_size that depends on a template argument.
template <int Part>
struct Register;
template <>
struct Register<4> {
    using Type = float __attribute__((vector_size(16)));
};
template <>
struct Register<kLanes> {
    using Type = float __attribute__((vector_size(4 * kLanes)));
};

template <int Part>
struct Lanes {
    using Vector = typename Register<Part>::Type;
    Vector parts[kLanes / Part];
};

template <int P>
LFPOSE_INLINE void load(Lanes<P>& to, const float* from) {
    std::memcpy(to.parts, from, sizeof to.parts);
}
template <int P>
LFPOSE_INLINE void store(float* to, const Lanes<P>& from) {
    std::memcpy(to, from.parts, sizeof from.parts);
}
template <int P>
LFPOSE_INLINE void fill(Lanes<P>& to, float value) {
    for (auto& part : to.parts) part = typename Lanes<P>::Vector{} + value;
}

// The larger of the two; NaN in `value` loses.
template <int P>
LFPOSE_INLINE void keep_larger(Lanes<P>& kept, const Lanes<P>& value) {
    for (int i = 0; i < kLanes / P; ++i) {
        kept.parts[i] = value.parts[i] > kept.parts[i] ? value.parts[i] : kept.parts[i];
    }
}

// The smaller of the two.
template <int P>
LFPOSE_INLINE void keep_smaller(Lanes<P>& kept, const Lanes<P>& value) {
    for (int i = 0; i < kLanes / P; ++i) {
        kept.parts[i] = value.parts[i] < kept.parts[i] ? value.parts[i] : kept.parts[i];
    }
}

// Repeats each of the first lanes `Factor` times: a a a a b b b b ...
template <int Factor, int P>
LFPOSE_INLINE void spread(Lanes<P>& lanes) {
    constexpr int f = Factor;
    Register<kLanes>::Type v;
    std::memcpy(&v, &lanes, sizeof v);
    v = __builtin_shufflevector(v, v, 0, 1 / f, 2 / f, 3 / f, 4 / f, 5 / f, 6 / f, 7 / f, 8 / f, 9 / f,
                                10 / f, 11 / f, 12 / f, 13 / f, 14 / f, 15 / f);
    std::memcpy(&lanes, &v, sizeof v);
}

// a + w * (b - a), each operation rounded on its own.
template <int P>
LFPOSE_INLINE void lerp(Lanes<P>& to, const Lanes<P>& a, const Lanes<P>& b, const Lanes<P>& w) {
    for (int i = 0; i < kLanes / P; ++i) {
        to.parts[i] = a.parts[i] + w.parts[i] * (b.parts[i] - a.parts[i]);
    }
}

template <int P>
LFPOSE_INLINE float largest(const Lanes<P>& lanes) {
    using Quad = Register<4>::Type;
    Quad q[4];
    std::memcpy(q, &lanes, sizeof q);
    const Quad a = q[0] > q[1] ? q[0] : q[1], b = q[2] > q[3] ? q[2] : q[3];
    const Quad c = a > b ? a : b;
    const Quad d = __builtin_shufflevector(c, c, 2, 3, 0, 1);
    const Quad e = c > d ? c : d;
    return e[0] > e[1] ? e[0] : e[1];
}

struct Doubles {
    using Vector = double __attribute__((vector_size(64)));
    Vector v;
};

LFPOSE_INLINE void clear(Doubles& to) { to.v = Doubles::Vector{}; }
LFPOSE_INLINE void load(Doubles& to, const double* from) { std::memcpy(&to.v, from, sizeof to.v); }
LFPOSE_INLINE void store(double* to, const Doubles& from) { std::memcpy(to, &from.v, sizeof from.v); }

LFPOSE_INLINE void load(Doubles& to, const float* from) {
    double wide[8];
    for (int i = 0; i < 8; ++i) wide[i] = static_cast<double>(from[i]);
    std::memcpy(&to.v, wide, sizeof wide);
}

LFPOSE_INLINE void add(Doubles& to, const Doubles& value) { to.v += value.v; }
LFPOSE_INLINE void add_product(Doubles& to, const Doubles& value, double weight) { to.v += value.v * weight; }
LFPOSE_INLINE void add_product(Doubles& to, const Doubles& a, const Doubles& b) { to.v += a.v * b.v; }

LFPOSE_INLINE double total(const Doubles& from) {
    const auto v = from.v;
    const auto a = __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
    return (a[0] + a[2]) + (a[1] + a[3]);
}

#else  // plain loops, for any compiler

template <int Part>
struct Lanes {
    float v[kLanes];
};

template <int P>
LFPOSE_INLINE void load(Lanes<P>& to, const float* from) {
    std::memcpy(to.v, from, sizeof to.v);
}
template <int P>
LFPOSE_INLINE void store(float* to, const Lanes<P>& from) {
    std::memcpy(to, from.v, sizeof from.v);
}
template <int P>
LFPOSE_INLINE void fill(Lanes<P>& to, float value) {
    for (float& v : to.v) v = value;
}
template <int P>
LFPOSE_INLINE void keep_larger(Lanes<P>& kept, const Lanes<P>& value) {
    for (int i = 0; i < kLanes; ++i) kept.v[i] = value.v[i] > kept.v[i] ? value.v[i] : kept.v[i];
}
template <int P>
LFPOSE_INLINE void keep_smaller(Lanes<P>& kept, const Lanes<P>& value) {
    for (int i = 0; i < kLanes; ++i) kept.v[i] = value.v[i] < kept.v[i] ? value.v[i] : kept.v[i];
}
template <int Factor, int P>
LFPOSE_INLINE void spread(Lanes<P>& lanes) {
    for (int i = kLanes - 1; i >= 0; --i) lanes.v[i] = lanes.v[i / Factor];
}
template <int P>
LFPOSE_INLINE void lerp(Lanes<P>& to, const Lanes<P>& a, const Lanes<P>& b, const Lanes<P>& w) {
    for (int i = 0; i < kLanes; ++i) to.v[i] = a.v[i] + w.v[i] * (b.v[i] - a.v[i]);
}
template <int P>
LFPOSE_INLINE float largest(const Lanes<P>& lanes) {
    float best = lanes.v[0];
    for (float v : lanes.v) best = v > best ? v : best;
    return best;
}

struct Doubles {
    double v[8];
};

LFPOSE_INLINE void clear(Doubles& to) { std::memset(to.v, 0, sizeof to.v); }
LFPOSE_INLINE void load(Doubles& to, const double* from) { std::memcpy(to.v, from, sizeof to.v); }
LFPOSE_INLINE void store(double* to, const Doubles& from) { std::memcpy(to, from.v, sizeof from.v); }
LFPOSE_INLINE void load(Doubles& to, const float* from) {
    for (int i = 0; i < 8; ++i) to.v[i] = static_cast<double>(from[i]);
}
LFPOSE_INLINE void add(Doubles& to, const Doubles& value) {
    for (int i = 0; i < 8; ++i) to.v[i] += value.v[i];
}
LFPOSE_INLINE void add_product(Doubles& to, const Doubles& value, double weight) {
    for (int i = 0; i < 8; ++i) to.v[i] += value.v[i] * weight;
}
LFPOSE_INLINE void add_product(Doubles& to, const Doubles& a, const Doubles& b) {
    for (int i = 0; i < 8; ++i) to.v[i] += a.v[i] * b.v[i];
}
LFPOSE_INLINE double total(const Doubles& from) {
    double sum = 0.0;
    for (double v : from.v) sum += v;
    return sum;
}

#endif

}  // namespace lfpose
