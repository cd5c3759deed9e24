// Samples a single pixel of a crop. This is the CUDA kernel's algorithm; it also runs on the CPU, so that it
// can be tested without a GPU. Specified by lfpose_edge/ops/reference.py.
#pragma once

#include <cmath>
#include <cstdint>

#include "lfpose/affine.hpp"
#include "lfpose/pixels.hpp"
#include "lfpose/preprocess.hpp"

namespace lfpose {

// Where a crop's pixels lie in the image, as pixel indices in 32.32 fixed point: accurate to 1e-6 pixels over
// any crop, and fast on GPUs with slow double arithmetic. Affines that exceed the range of the fixed-point
// format are evaluated in doubles.
struct CropPlan {
    std::int64_t x0, x_column, x_row;  // x = x0 + column * x_column + row * x_row
    std::int64_t y0, y_column, y_row;
    Affine affine;
    bool fixed;
};

inline CropPlan crop_plan(const Affine& affine, int height, int width) {
    constexpr double kOne = 4294967296.0, kRange = 536870912.0;
    const double x0 = affine.x(0.5, 0.5) - 0.5, y0 = affine.y(0.5, 0.5) - 0.5;
    const double x_reach = std::fabs(x0) + std::fabs(affine.xx) * width + std::fabs(affine.xy) * height;
    const double y_reach = std::fabs(y0) + std::fabs(affine.yx) * width + std::fabs(affine.yy) * height;
    CropPlan plan{0, 0, 0, 0, 0, 0, affine, x_reach < kRange && y_reach < kRange};
    if (!plan.fixed) return plan;
    const auto fix = [](double value) { return static_cast<std::int64_t>(std::llround(value * kOne)); };
    plan.x0 = fix(x0), plan.x_column = fix(affine.xx), plan.x_row = fix(affine.xy);
    plan.y0 = fix(y0), plan.y_column = fix(affine.yx), plan.y_row = fix(affine.yy);
    return plan;
}

// A pixel index and the weight of the next pixel, along one axis.
struct AxisPoint {
    int index;
    float weight;
};

LFPOSE_HD LFPOSE_INLINE AxisPoint fixed_point(std::int64_t at) {
    return {static_cast<int>(at >> 32), static_cast<float>(static_cast<std::uint32_t>(at)) * 2.3283064e-10F};
}

LFPOSE_HD LFPOSE_INLINE AxisPoint double_point(double coordinate, int pixels) {
    const double at = pixel_index(coordinate, pixels), index = floor(at);
    return {static_cast<int>(index), static_cast<float>(at - index)};
}

LFPOSE_HD LFPOSE_INLINE AxisPoint x_point(const CropPlan& plan, int column, int row, int pixels) {
    return plan.fixed ? fixed_point(plan.x0 + column * plan.x_column + row * plan.x_row)
                      : double_point(plan.affine.x(column + 0.5, row + 0.5), pixels);
}

LFPOSE_HD LFPOSE_INLINE AxisPoint y_point(const CropPlan& plan, int column, int row, int pixels) {
    return plan.fixed ? fixed_point(plan.y0 + column * plan.y_column + row * plan.y_row)
                      : double_point(plan.affine.y(column + 0.5, row + 0.5), pixels);
}

// Grey (1 channel), BGR or RGB (3), or the same with a fourth channel that is not read.
struct PackedImage {
    const std::uint8_t* data;
    std::int64_t row_bytes;
    int height, width, channels;

    LFPOSE_HD LFPOSE_INLINE void read(int y, int x, float* values) const {
        const std::uint8_t* pixel = data + y * row_bytes + static_cast<std::int64_t>(x) * channels;
        const int step = channels == 1 ? 0 : 1;
        for (int c = 0; c < 3; ++c) values[c] = static_cast<float>(pixel[c * step]);
    }

    // The pixels at x and x + 1, both inside the image: up to three loads of aligned words instead of one
    // load per byte.
    LFPOSE_HD LFPOSE_INLINE void read_pair(int y, int x, float* left, float* right) const {
        const std::uint8_t* first = data + y * row_bytes + static_cast<std::int64_t>(x) * channels;
        const std::uint8_t* end =
            data + (height - 1) * row_bytes + static_cast<std::int64_t>(width) * channels;
        const auto offset = static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(first) & 3U);
        const unsigned bytes = offset + 2U * static_cast<unsigned>(channels);
        const unsigned words = (bytes + 3U) / 4U;  // each holds at least one of the bytes
        if (first - offset + 4U * words > end) {   // the last word may extend past the image's end
            read(y, x, left);
            read(y, x + 1, right);
            return;
        }
        const auto* word = reinterpret_cast<const std::uint32_t*>(first - offset);
        const std::uint64_t w0 = word[0], w1 = words > 1 ? word[1] : 0, w2 = words > 2 ? word[2] : 0;
        const unsigned shift = 8U * offset;
        const std::uint64_t low = ((w1 << 32U | w0) >> shift) & 0xffffffffU;
        const std::uint64_t pair = low | ((w2 << 32U | w1) >> shift) << 32U;
        const unsigned step = channels == 1 ? 0 : 8, next = 8U * static_cast<unsigned>(channels);
        for (unsigned c = 0; c < 3; ++c) {
            left[c] = static_cast<float>(static_cast<std::uint32_t>(pair >> (c * step)) & 255U);
            right[c] = static_cast<float>(static_cast<std::uint32_t>(pair >> (next + c * step)) & 255U);
        }
    }
};

// A luma plane and, at half its resolution, a plane of chroma pairs: the format that cameras and video
// decoders deliver. Converted to BGR as BT.601 limited range; a pixel takes the chroma of its 2 x 2 block.
struct Nv12Image {
    const std::uint8_t* luma;    // (height, width)
    const std::uint8_t* chroma;  // (height / 2, width / 2, 2): U, V
    std::int64_t luma_row_bytes, chroma_row_bytes;
    int height, width;

    LFPOSE_HD LFPOSE_INLINE void read(int y, int x, float* values) const {
        const std::uint8_t* pair = chroma + y / 2 * chroma_row_bytes + x / 2 * 2;
        const float above_black = static_cast<float>(luma[y * luma_row_bytes + x]) - 16.0F;
        const float grey = 1.1643836F * (above_black > 0.0F ? above_black : 0.0F);
        const float u = static_cast<float>(pair[0]) - 128.0F, v = static_cast<float>(pair[1]) - 128.0F;
        values[0] = grey_level(grey + 2.0172321F * u);
        values[1] = grey_level(grey - 0.3917623F * u - 0.8129676F * v);
        values[2] = grey_level(grey + 1.5960268F * v);
    }

    LFPOSE_HD LFPOSE_INLINE void read_pair(int y, int x, float* left, float* right) const {
        read(y, x, left);
        read(y, x + 1, right);
    }

    LFPOSE_HD LFPOSE_INLINE static float grey_level(float value) {
        return value > 0.0F ? (value < 255.0F ? value : 255.0F) : 0.0F;
    }
};

// The grey levels at a point between four pixels, interpolated, in the image's channel order.
template <typename Image>
LFPOSE_HD LFPOSE_INLINE void sample_point(const Image& image, const AxisPoint& x, const AxisPoint& y,
                                          const float* border, float* values) {
    float taps[4][3];
    for (int below = 0; below < 2; ++below) {
        const int row = y.index + below;
        const bool inside = row >= 0 && row < image.height;
        if (inside && x.index >= 0 && x.index + 1 < image.width) {
            image.read_pair(row, x.index, taps[2 * below], taps[2 * below + 1]);
            continue;
        }
        for (int beside = 0; beside < 2; ++beside) {
            const int column = x.index + beside;
            float* tap = taps[2 * below + beside];
            if (inside && column >= 0 && column < image.width) {
                image.read(row, column, tap);
            } else {
                for (int c = 0; c < 3; ++c) tap[c] = border[c];
            }
        }
    }
    for (int c = 0; c < 3; ++c) {
        const float upper = taps[0][c] + x.weight * (taps[1][c] - taps[0][c]);
        const float lower = taps[2][c] + x.weight * (taps[3][c] - taps[2][c]);
        values[c] = upper + y.weight * (lower - upper);
    }
}

}  // namespace lfpose
