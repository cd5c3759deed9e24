// The virtual bilinear upsampling of a CAM: which samples and which weight belong to a position.
// Shared with the CUDA kernels. Every value must be bit-identical in every implementation, so each
// operation is rounded to float on its own: nothing here may be fused or reassociated.
#pragma once

#include <cstdint>

#include "lfpose/compiler.hpp"
#include "lfpose/logit.hpp"

namespace lfpose {

LFPOSE_HD LFPOSE_INLINE float lerp(float a, float b, float w) {
#ifdef __CUDA_ARCH__
    return __fadd_rn(a, __fmul_rn(w, __fsub_rn(b, a)));
#else
    return a + w * (b - a);
#endif
}

LFPOSE_HD LFPOSE_INLINE int clamp_index(int index, int count) {
    return index < 0 ? 0 : (index < count ? index : count - 1);
}

LFPOSE_HD LFPOSE_INLINE int floor_divide(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

// Interpolation cell c lies between the samples c and c + 1; cells -1 and n - 1 are the flat borders.
// It holds `factor` upsampled positions, of which this is the first.
LFPOSE_HD LFPOSE_INLINE int first_position(int cell, int factor) { return cell * factor + factor / 2; }

// The cell of an upsampled position, which may lie outside the map by any amount.
LFPOSE_HD LFPOSE_INLINE int cell_of(int position, int factor) {
    return floor_divide(position - factor / 2, factor);
}

// The weight of the upper sample at the i-th position of a cell.
LFPOSE_HD LFPOSE_INLINE float weight_in_cell(int i, int factor) {
    return static_cast<float>(2 * i + (factor % 2 == 0 ? 1 : 0)) / static_cast<float>(2 * factor);
}

// From one sample of DARK's blur to the next, in upsampled positions: the largest divisor of `factor` that is
// at most half a cell (1 for a factor of 1).
LFPOSE_HD LFPOSE_INLINE int blur_step(int factor) {
    int step = factor < 2 ? 1 : factor / 2;
    while (factor % step != 0) --step;
    return step;
}

// A (height, width) map of logits, not yet sanitised.
struct MapView {
    const float* data;
    int height, width;

    LFPOSE_HD LFPOSE_INLINE float at(int y, int x) const {
        return sanitize(
            data[static_cast<std::int64_t>(clamp_index(y, height)) * width + clamp_index(x, width)]);
    }
};

// The upsampled map at one position inside it.
LFPOSE_HD LFPOSE_INLINE float upsampled_at(const MapView& map, int factor, int x, int y) {
    const int cx = cell_of(x, factor), cy = cell_of(y, factor);
    const float wx = weight_in_cell(x - first_position(cx, factor), factor);
    const float wy = weight_in_cell(y - first_position(cy, factor), factor);
    const float top = lerp(map.at(cy, cx), map.at(cy, cx + 1), wx);
    const float bottom = lerp(map.at(cy + 1, cx), map.at(cy + 1, cx + 1), wx);
    return lerp(top, bottom, wy);
}

// The best upsampled position so far. Among equals, the first in row-major order wins.
struct Peak {
    int x, y;
    float value;

    // Whether (value, x, y) replaces this peak.
    LFPOSE_HD LFPOSE_INLINE bool yields_to(float other, int other_x, int other_y) const {
        return other > value || (other == value && (other_y < y || (other_y == y && other_x < x)));
    }
};

// Where an upsampled position plus a sub-pixel offset lies in the crop, clamped to [0, cells * stride].
LFPOSE_HD LFPOSE_INLINE double crop_coordinate(int position, double offset, double stride, int factor,
                                               int cells) {
    const double at = (position + 0.5 + offset) * stride / factor;
    const double end = cells * stride;
    return at < 0.0 ? 0.0 : (at < end ? at : end);
}

}  // namespace lfpose
