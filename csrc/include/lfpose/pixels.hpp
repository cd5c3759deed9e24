// Reading pairs of adjacent pixels and converting sampled values: the inner loops of both crop kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "lfpose/compiler.hpp"

namespace lfpose {

// One channel of the two pixels in the words `low` and `high`, which hold eight bytes of a row.
struct Tap {
    float left, right;
};

template <int Channels>
LFPOSE_INLINE Tap tap(std::uint32_t low, std::uint32_t high, int channel) {
    const int left = Channels == 1 ? 0 : channel, right = Channels == 1 ? 1 : Channels + channel;
    const std::uint32_t word = right < 4 ? low : high;
    return {static_cast<float>(static_cast<std::int32_t>(low >> (8 * left) & 255U)),
            static_cast<float>(static_cast<std::int32_t>(word >> (8 * (right & 3)) & 255U))};
}

LFPOSE_HD LFPOSE_INLINE void finish(float value, float scale, float bias, float& out) {
    out = value * scale + bias;
}

// Rounds half up.
LFPOSE_HD LFPOSE_INLINE void finish(float value, float, float, std::uint8_t& out) {
    const float rounded = value + 0.5F;
    const float clamped = rounded > 0.0F ? (rounded < 255.0F ? rounded : 255.0F) : 0.0F;
    out = static_cast<std::uint8_t>(static_cast<std::int32_t>(clamped));
}

template <typename T>
LFPOSE_INLINE T* reserve(std::vector<T>& buffer, std::ptrdiff_t size) {
    if (static_cast<std::ptrdiff_t>(buffer.size()) < size) buffer.resize(static_cast<std::size_t>(size));
    return buffer.data();
}

}  // namespace lfpose
