// Sixteen floats, or eight doubles, as one value. Loops over arrays do most of the work in this library;
// these are for the reductions, whose accumulators compilers otherwise keep in memory.
#pragma once

#include <cstring>

#include "lfpose/compiler.hpp"

namespace lfpose {

constexpr int kLanes = 16;

#if defined(__GNUC__) && (!defined(__clang__) || __clang_major__ >= 12) && \
    (defined(__clang__) || __GNUC__ >= 12)
#define LFPOSE_VECTOR_EXTENSION
#endif

#ifdef LFPOSE_VECTOR_EXTENSION

struct Lanes {
    using Vector = float __attribute__((vector_size(4 * kLanes)));
    Vector v;
};

LFPOSE_INLINE void load(Lanes& to, const float* from) { std::memcpy(&to.v, from, sizeof to.v); }
LFPOSE_INLINE void store(float* to, const Lanes& from) { std::memcpy(to, &from.v, sizeof from.v); }
LFPOSE_INLINE void fill(Lanes& to, float value) { to.v = Lanes::Vector{} + value; }

// The larger of the two; NaN in `value` loses.
LFPOSE_INLINE void keep_larger(Lanes& kept, const Lanes& value) {
    kept.v = value.v > kept.v ? value.v : kept.v;
}

// The smaller of the two.
LFPOSE_INLINE void keep_smaller(Lanes& kept, const Lanes& value) {
    kept.v = value.v < kept.v ? value.v : kept.v;
}

// Each lane of the front `Factor` times: a a a a b b b b ...
template <int Factor>
LFPOSE_INLINE void spread(Lanes& lanes) {
    constexpr int f = Factor;
    lanes.v = __builtin_shufflevector(lanes.v, lanes.v, 0, 1 / f, 2 / f, 3 / f, 4 / f, 5 / f, 6 / f, 7 / f,
                                      8 / f, 9 / f, 10 / f, 11 / f, 12 / f, 13 / f, 14 / f, 15 / f);
}

// a + w * (b - a), each operation rounded on its own.
LFPOSE_INLINE void lerp(Lanes& to, const Lanes& a, const Lanes& b, const Lanes& w) {
    to.v = a.v + w.v * (b.v - a.v);
}

LFPOSE_INLINE float largest(const Lanes& lanes) {
    const auto v = lanes.v;
    const auto a = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
    const auto b = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    const auto c = a > b ? a : b;
    const auto d = __builtin_shufflevector(c, c, 0, 1, 2, 3), e = __builtin_shufflevector(c, c, 4, 5, 6, 7);
    const auto f = d > e ? d : e;
    const auto g = __builtin_shufflevector(f, f, 2, 3, 0, 1);
    const auto h = f > g ? f : g;
    return h[0] > h[1] ? h[0] : h[1];
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

struct Lanes {
    float v[kLanes];
};

LFPOSE_INLINE void load(Lanes& to, const float* from) { std::memcpy(to.v, from, sizeof to.v); }
LFPOSE_INLINE void store(float* to, const Lanes& from) { std::memcpy(to, from.v, sizeof from.v); }
LFPOSE_INLINE void fill(Lanes& to, float value) {
    for (float& v : to.v) v = value;
}
LFPOSE_INLINE void keep_larger(Lanes& kept, const Lanes& value) {
    for (int i = 0; i < kLanes; ++i) kept.v[i] = value.v[i] > kept.v[i] ? value.v[i] : kept.v[i];
}
LFPOSE_INLINE void keep_smaller(Lanes& kept, const Lanes& value) {
    for (int i = 0; i < kLanes; ++i) kept.v[i] = value.v[i] < kept.v[i] ? value.v[i] : kept.v[i];
}
template <int Factor>
LFPOSE_INLINE void spread(Lanes& lanes) {
    for (int i = kLanes - 1; i >= 0; --i) lanes.v[i] = lanes.v[i / Factor];
}
LFPOSE_INLINE void lerp(Lanes& to, const Lanes& a, const Lanes& b, const Lanes& w) {
    for (int i = 0; i < kLanes; ++i) to.v[i] = a.v[i] + w.v[i] * (b.v[i] - a.v[i]);
}
LFPOSE_INLINE float largest(const Lanes& lanes) {
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
