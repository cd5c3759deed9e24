#include "lfpose/preprocess.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace lfpose {
namespace {

constexpr int kOutside = -1;

// One axis of a crop: for each position the lower source pixel and the upper one's weight.
struct Axis {
    std::vector<int> lower;
    std::vector<float> weight;

    void fill(int count, int pixels, double scale, double shift) {
        lower.resize(static_cast<std::size_t>(count));
        weight.resize(static_cast<std::size_t>(count));
        for (int i = 0; i < count; ++i) {
            // Beyond the image by two pixels or by two million, a tap is border all the same.
            const double at = std::clamp(scale * (i + 0.5) + shift - 0.5, -2.0, pixels + 1.0);
            const double low = std::floor(at);
            lower[static_cast<std::size_t>(i)] = static_cast<int>(low);
            weight[static_cast<std::size_t>(i)] = static_cast<float>(at - low);
        }
    }
};

// One pixel as a word, channel 0 in the lowest byte. `Wide` reads four bytes of a three-byte pixel: not for
// the last one of a row, behind which the image may end.
template <int kChannels, bool kWide>
std::uint32_t load_pixel(const std::uint8_t* row, int x) {
    const std::uint8_t* pixel = row + static_cast<std::ptrdiff_t>(x) * kChannels;
    if constexpr (kChannels == 1) return *pixel * 0x010101U;
    if constexpr (kChannels == 4 || kWide) {
        std::uint32_t word;
        std::memcpy(&word, pixel, sizeof word);
        return word;
    }
    return static_cast<std::uint32_t>(pixel[0]) | static_cast<std::uint32_t>(pixel[1]) << 8 |
           static_cast<std::uint32_t>(pixel[2]) << 16;
}

// The two pixels around each column of a crop. Columns in [first, last) have both of them in the image, with
// another pixel behind.
template <int kChannels>
void gather_row(const std::uint8_t* row, int pixels, const int* LFPOSE_RESTRICT lower, int count, int first,
                int last, std::uint32_t border, std::uint32_t* LFPOSE_RESTRICT left,
                std::uint32_t* LFPOSE_RESTRICT right) {
    auto careful = [&](int x) {
        return x < 0 || x >= pixels ? border : load_pixel<kChannels, false>(row, x);
    };
    for (int i = 0; i < count; ++i) {
        if (i == first) i = last;
        if (i >= count) break;
        left[i] = careful(lower[i]);
        right[i] = careful(lower[i] + 1);
    }
    for (int i = first; i < last; ++i) {
        left[i] = load_pixel<kChannels, true>(row, lower[i]);
        right[i] = load_pixel<kChannels, true>(row, lower[i] + 1);
    }
}

// Blends the pixels around each column, into three planes of `count` floats.
LFPOSE_CLONES void blend_columns(const std::uint32_t* LFPOSE_RESTRICT left,
                                 const std::uint32_t* LFPOSE_RESTRICT right,
                                 const float* LFPOSE_RESTRICT weight, int count,
                                 float* LFPOSE_RESTRICT planes) {
    for (int i = 0; i < count; ++i) {
        const float w = weight[i];
        const float a0 = static_cast<float>(static_cast<int>(left[i] & 255U));
        const float a1 = static_cast<float>(static_cast<int>(left[i] >> 8 & 255U));
        const float a2 = static_cast<float>(static_cast<int>(left[i] >> 16 & 255U));
        const float b0 = static_cast<float>(static_cast<int>(right[i] & 255U));
        const float b1 = static_cast<float>(static_cast<int>(right[i] >> 8 & 255U));
        const float b2 = static_cast<float>(static_cast<int>(right[i] >> 16 & 255U));
        planes[i] = a0 + w * (b0 - a0);
        planes[count + i] = a1 + w * (b1 - a1);
        planes[2 * count + i] = a2 + w * (b2 - a2);
    }
}

LFPOSE_CLONES void blend_rows(const float* LFPOSE_RESTRICT a, const float* LFPOSE_RESTRICT b, float w,
                              float scale, float bias, int count, float* LFPOSE_RESTRICT out) {
    for (int i = 0; i < count; ++i) out[i] = (a[i] + w * (b[i] - a[i])) * scale + bias;
}

LFPOSE_CLONES void blend_rows(const float* LFPOSE_RESTRICT a, const float* LFPOSE_RESTRICT b, float w, float,
                              float, int count, std::uint8_t* LFPOSE_RESTRICT out) {
    for (int i = 0; i < count; ++i) {
        // Values are in [0, 255], so adding a half and cutting off is rounding half up.
        out[i] = static_cast<std::uint8_t>(static_cast<int>(a[i] + w * (b[i] - a[i]) + 0.5F));
    }
}

std::uint8_t to_output(float value, float, float, std::uint8_t*) {
    return static_cast<std::uint8_t>(static_cast<int>(value + 0.5F));
}

float to_output(float value, float scale, float bias, float*) { return value * scale + bias; }

// Buffers of one thread, kept from crop to crop.
struct Scratch {
    Axis x, y;
    std::vector<std::uint32_t> left, right;
    std::vector<float> rows;  // two sampled source rows of three planes
};

// Crops without rotation: each source row that is needed is sampled once, then pairs of rows are blended.
template <typename Out>
void crop_axis_aligned(const ImageView& image, const Affine& affine, const PreprocessSpec& spec,
                       Scratch& scratch, Out* out) {
    const int width = spec.width;
    const auto columns = static_cast<std::size_t>(width);
    scratch.x.fill(width, image.width, affine.xx, affine.x0);
    scratch.y.fill(spec.height, image.height, affine.yy, affine.y0);
    scratch.left.resize(columns);
    scratch.right.resize(columns);
    scratch.rows.resize(6 * columns);
    const int* lower = scratch.x.lower.data();
    // Source columns only rise, or only fall, along a crop: the easy ones are a run.
    auto easy = [&](int x) { return x >= 0 && x + 1 < image.width - 1; };
    const int first = static_cast<int>(std::find_if(lower, lower + width, easy) - lower);
    const int last = static_cast<int>(std::find_if_not(lower + first, lower + width, easy) - lower);
    std::uint32_t border = 0;
    for (int c = 0; c < 3; ++c)
        border |= static_cast<std::uint32_t>(static_cast<int>(spec.border[c])) << (8 * c);
    const auto gather = image.channels == 1   ? gather_row<1>
                        : image.channels == 3 ? gather_row<3>
                                              : gather_row<4>;

    int held[2] = {-3, -3};  // which source row each slot holds; rows outside the image all are row kOutside
    auto sampled = [&](int row, int other) {
        const int key = row < 0 || row >= image.height ? kOutside : row;
        for (int slot = 0; slot < 2; ++slot) {
            if (held[slot] == key) return slot;
        }
        const int slot = held[0] == other ? 1 : 0;
        float* planes = scratch.rows.data() + static_cast<std::ptrdiff_t>(slot) * 3 * width;
        if (key == kOutside) {
            for (int c = 0; c < 3; ++c) std::fill_n(planes + c * width, width, spec.border[c]);
        } else {
            gather(image.data + row * image.row_bytes, image.width, lower, width, first, last, border,
                   scratch.left.data(), scratch.right.data());
            blend_columns(scratch.left.data(), scratch.right.data(), scratch.x.weight.data(), width, planes);
        }
        held[slot] = key;
        return slot;
    };

    for (int y = 0; y < spec.height; ++y) {
        const int row = scratch.y.lower[static_cast<std::size_t>(y)];
        const int next_key = row + 1 < 0 || row + 1 >= image.height ? kOutside : row + 1;
        const int a = sampled(row, next_key);
        const int b = sampled(row + 1, held[a]);
        const float w = scratch.y.weight[static_cast<std::size_t>(y)];
        for (int c = 0; c < 3; ++c) {
            const int source = spec.swap_rb ? 2 - c : c;
            const float* planes = scratch.rows.data() + static_cast<std::ptrdiff_t>(source) * width;
            blend_rows(planes + static_cast<std::ptrdiff_t>(a) * 3 * width,
                       planes + static_cast<std::ptrdiff_t>(b) * 3 * width, w, spec.scale[c], spec.bias[c],
                       width, out + (static_cast<std::ptrdiff_t>(c) * spec.height + y) * width);
        }
    }
}

// Crops with rotation: four taps a pixel.
template <typename Out>
void crop_rotated(const ImageView& image, const Affine& affine, const PreprocessSpec& spec, Out* out) {
    const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(spec.height) * spec.width;
    auto tap = [&](int x, int y, int c) {
        if (x < 0 || x >= image.width || y < 0 || y >= image.height) return spec.border[c];
        const int channel = image.channels == 1 ? 0 : c;
        return static_cast<float>(
            image.data[y * image.row_bytes + static_cast<std::ptrdiff_t>(x) * image.channels + channel]);
    };
    for (int y = 0; y < spec.height; ++y) {
        for (int x = 0; x < spec.width; ++x) {
            const double px = std::clamp(affine.x(x + 0.5, y + 0.5) - 0.5, -2.0, image.width + 1.0);
            const double py = std::clamp(affine.y(x + 0.5, y + 0.5) - 0.5, -2.0, image.height + 1.0);
            const int x0 = static_cast<int>(std::floor(px)), y0 = static_cast<int>(std::floor(py));
            const float wx = static_cast<float>(px - x0), wy = static_cast<float>(py - y0);
            for (int c = 0; c < 3; ++c) {
                const int source = spec.swap_rb ? 2 - c : c;
                const float a = tap(x0, y0, source), b = tap(x0 + 1, y0, source);
                const float d = tap(x0, y0 + 1, source), e = tap(x0 + 1, y0 + 1, source);
                const float top = a + wx * (b - a), bottom = d + wx * (e - d);
                out[c * plane + static_cast<std::ptrdiff_t>(y) * spec.width + x] = to_output(
                    top + wy * (bottom - top), spec.scale[c], spec.bias[c], static_cast<Out*>(nullptr));
            }
        }
    }
}

}  // namespace

template <typename Out>
void preprocess(const ImageView& image, const double* affines, int n, const PreprocessSpec& spec, Out* out,
                int threads) {
    const std::ptrdiff_t crop_size = std::ptrdiff_t{3} * spec.height * spec.width;
    const bool whole_border =
        std::all_of(spec.border, spec.border + 3, [](float v) { return v == std::floor(v); });
    auto one = [&](int i, Scratch& scratch) {
        const Affine affine = Affine::from(affines + std::ptrdiff_t{6} * i);
        // A packed pixel holds whole grey levels only.
        if (affine.axis_aligned() && whole_border) {
            crop_axis_aligned(image, affine, spec, scratch, out + i * crop_size);
        } else {
            crop_rotated(image, affine, spec, out + i * crop_size);
        }
    };
    if (threads <= 1 || n <= 1) {
        static thread_local Scratch scratch;
        for (int i = 0; i < n; ++i) one(i, scratch);
        return;
    }
#pragma omp parallel num_threads(std::min(threads, n))
    {
        Scratch scratch;
#pragma omp for schedule(dynamic)
        for (int i = 0; i < n; ++i) one(i, scratch);
    }
}

template void preprocess<float>(const ImageView&, const double*, int, const PreprocessSpec&, float*, int);
template void preprocess<std::uint8_t>(const ImageView&, const double*, int, const PreprocessSpec&,
                                       std::uint8_t*, int);

}  // namespace lfpose
