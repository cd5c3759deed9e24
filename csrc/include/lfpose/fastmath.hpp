// The logistic function for loops that the compiler turns into vector code.
#pragma once

#include <cstdint>
#include <cstring>

#include "lfpose/compiler.hpp"

namespace lfpose {

// exp(x) for x <= 0, with a relative error below 2e-7; exp(-87), about 1e-38, below that.
LFPOSE_INLINE float exp_negative(float x) {
    constexpr float kLog2e = 1.44269504F;
    // ln 2 in two parts, so that x - n ln 2 loses nothing.
    constexpr float kLn2High = 0.693359375F, kLn2Low = -2.12194440e-4F;
    const float clamped = x < -87.0F ? -87.0F : x;
    const int n = static_cast<int>(clamped * kLog2e - 0.5F);  // nearest, as x <= 0
    const float r = (clamped - static_cast<float>(n) * kLn2High) - static_cast<float>(n) * kLn2Low;
    // Taylor's polynomial of degree 7 on |r| <= ln 2 / 2.
    float p = 1.0F / 5040.0F;
    p = p * r + 1.0F / 720.0F;
    p = p * r + 1.0F / 120.0F;
    p = p * r + 1.0F / 24.0F;
    p = p * r + 1.0F / 6.0F;
    p = p * r + 0.5F;
    p = p * r + 1.0F;
    p = p * r + 1.0F;
    const std::int32_t bits = (n + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

LFPOSE_INLINE float logistic(float x) {
    const float small = exp_negative(x < 0.0F ? x : -x);
    return (x < 0.0F ? small : 1.0F) / (1.0F + small);
}

}  // namespace lfpose
