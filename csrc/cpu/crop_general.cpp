// Crops with rotation or shear: four taps per pixel. Pixels whose taps all lie inside the image go through
// plain loops; the others, along the image's edges, are recomputed one at a time.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "lfpose/pixels.hpp"
#include "lfpose/preprocess.hpp"

namespace lfpose {
namespace {

struct RowPlan {
    double *x, *y;          // sampling positions, pixel indices
    std::ptrdiff_t* bytes;  // offset of the upper left tap from the image's data
    std::uint8_t* edge;     // whether a pixel is recomputed by sample_edges
};

LFPOSE_CLONES void plan_row(const ImageView& image, const Affine& affine, int crop_y, int count,
                            std::ptrdiff_t safe, const RowPlan& plan) {
    double *LFPOSE_RESTRICT px = plan.x, *LFPOSE_RESTRICT py = plan.y;
    for (int i = 0; i < count; ++i) {
        px[i] = pixel_index(affine.x(i + 0.5, crop_y + 0.5), image.width);
        py[i] = pixel_index(affine.y(i + 0.5, crop_y + 0.5), image.height);
    }
    const std::ptrdiff_t readable = image.end() - image.data - kPairBytes;
    for (int i = 0; i < count; ++i) {
        const int x = static_cast<int>(std::floor(px[i])), y = static_cast<int>(std::floor(py[i]));
        const std::ptrdiff_t at = y * image.row_bytes + static_cast<std::ptrdiff_t>(x) * image.channels;
        const bool inside = x >= 0 && y >= 0 && x + 1 < image.width && y + 1 < image.height &&
                            at <= readable && at + image.row_bytes <= readable;
        plan.bytes[i] = inside ? at : safe;
        plan.edge[i] = !inside;
    }
}

template <int Channels>
LFPOSE_INLINE void sample(const std::uint32_t* LFPOSE_RESTRICT top,
                          const std::uint32_t* LFPOSE_RESTRICT bottom, const RowPlan& plan, int count,
                          float* LFPOSE_RESTRICT values) {
    for (int c = 0; c < 3; ++c) {
        for (int i = 0; i < count; ++i) {
            const Tap a = tap<Channels>(top[2 * i], top[2 * i + 1], c);
            const Tap b = tap<Channels>(bottom[2 * i], bottom[2 * i + 1], c);
            const float wx = static_cast<float>(plan.x[i] - std::floor(plan.x[i]));
            const float wy = static_cast<float>(plan.y[i] - std::floor(plan.y[i]));
            const float upper = a.left + wx * (a.right - a.left), lower = b.left + wx * (b.right - b.left);
            values[c * count + i] = upper + wy * (lower - upper);
        }
    }
}

LFPOSE_CLONES void sample_row(const ImageView& image, const RowPlan& plan, int count,
                              std::ptrdiff_t row_bytes, std::uint32_t* LFPOSE_RESTRICT pairs,
                              float* LFPOSE_RESTRICT values) {
    std::uint32_t *top = pairs, *bottom = pairs + std::ptrdiff_t{2} * count;
    for (int i = 0; i < count; ++i) {
        const std::uint8_t* at = image.data + plan.bytes[i];
        std::memcpy(top + 2 * i, at, kPairBytes);
        std::memcpy(bottom + 2 * i, at + (plan.edge[i] ? 0 : row_bytes), kPairBytes);
    }
    if (image.channels == 3) {
        sample<3>(top, bottom, plan, count, values);
    } else if (image.channels == 4) {
        sample<4>(top, bottom, plan, count, values);
    } else {
        sample<1>(top, bottom, plan, count, values);
    }
}

float tap_or_border(const ImageView& image, int x, int y, int c, const float* border) {
    if (x < 0 || x >= image.width || y < 0 || y >= image.height) return border[c];
    return static_cast<float>(
        image.row(y)[static_cast<std::ptrdiff_t>(x) * image.channels + (image.channels == 1 ? 0 : c)]);
}

void sample_edges(const ImageView& image, const RowPlan& plan, int count, const float* border,
                  float* values) {
    for (int i = 0; i < count; ++i) {
        if (!plan.edge[i]) continue;
        const double fx = std::floor(plan.x[i]), fy = std::floor(plan.y[i]);
        const int x = static_cast<int>(fx), y = static_cast<int>(fy);
        const float wx = static_cast<float>(plan.x[i] - fx), wy = static_cast<float>(plan.y[i] - fy);
        for (int c = 0; c < 3; ++c) {
            const float a = tap_or_border(image, x, y, c, border),
                        b = tap_or_border(image, x + 1, y, c, border);
            const float d = tap_or_border(image, x, y + 1, c, border);
            const float e = tap_or_border(image, x + 1, y + 1, c, border);
            const float upper = a + wx * (b - a), lower = d + wx * (e - d);
            values[c * count + i] = upper + wy * (lower - upper);
        }
    }
}

template <typename Out>
LFPOSE_INLINE void finish_channel(const float* LFPOSE_RESTRICT values, float scale, float bias, int count,
                                  std::ptrdiff_t step, Out* LFPOSE_RESTRICT out) {
    for (int i = 0; i < count; ++i) finish(values[i], scale, bias, out[i * step]);
}

template <typename Out>
LFPOSE_INLINE void finish_row(const float* values, const PreprocessSpec& spec, Out* out) {
    for (int c = 0; c < 3; ++c) {
        const float* channel = values + static_cast<std::ptrdiff_t>(spec.source_channel(c)) * spec.width;
        Out* first = out + c * spec.channel_step();
        if (spec.channels_last) {
            finish_channel(channel, spec.scale[c], spec.bias[c], spec.width, 3, first);
        } else {
            finish_channel(channel, spec.scale[c], spec.bias[c], spec.width, 1, first);
        }
    }
}

LFPOSE_CLONES void write(const float* values, const PreprocessSpec& spec, float* out) {
    finish_row(values, spec, out);
}
LFPOSE_CLONES void write(const float* values, const PreprocessSpec& spec, std::uint8_t* out) {
    finish_row(values, spec, out);
}

}  // namespace

template <typename Out>
void crop_general(const ImageView& image, const Affine& affine, const PreprocessSpec& spec,
                  PreprocessScratch& scratch, Out* out) {
    const int width = spec.width;
    const RowPlan plan{reserve(scratch.x, width), reserve(scratch.y, width), reserve(scratch.bytes, width),
                       reserve(scratch.edge, width)};
    std::uint32_t* pairs = reserve(scratch.pairs, std::ptrdiff_t{4} * width);
    float* values = reserve(scratch.rows, std::ptrdiff_t{6} * width);
    // Pixels at an edge first read an arbitrary readable word, and are then recomputed.
    const bool tiny = image.end() - image.lowest() < kPairBytes;
    const std::ptrdiff_t safe = image.end() - image.data - kPairBytes;
    for (int y = 0; y < spec.height; ++y) {
        plan_row(image, affine, y, width, safe, plan);
        if (!tiny) sample_row(image, plan, width, image.row_bytes, pairs, values);
        sample_edges(image, plan, width, spec.border, values);
        write(values, spec, out + std::ptrdiff_t{y} * width * spec.pixel_step());
    }
}

template void crop_general<float>(const ImageView&, const Affine&, const PreprocessSpec&, PreprocessScratch&,
                                  float*);
template void crop_general<std::uint8_t>(const ImageView&, const Affine&, const PreprocessSpec&,
                                         PreprocessScratch&, std::uint8_t*);

}  // namespace lfpose
