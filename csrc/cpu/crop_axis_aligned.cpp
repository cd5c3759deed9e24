// Crops without rotation: separable, so each source row is sampled along x once, and then pairs of rows are
// blended straight into the normalised crop.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "lfpose/pixels.hpp"
#include "lfpose/preprocess.hpp"

namespace lfpose {
namespace {

struct Columns {
    const int* offset;
    const float *left, *right, *outside;
    int count;
    bool border;  // whether any column touches the border and the border is not black
};

// Where each crop column samples a row. A pair that begins outside the image is moved to pixel 0, and its
// weights are adjusted.
Columns make_columns(const ImageView& image, const Affine& affine, const PreprocessSpec& spec,
                     PreprocessScratch& scratch, int& last_byte) {
    int* offset = reserve(scratch.offset, spec.width);
    float* left = reserve(scratch.left, spec.width);
    float* right = reserve(scratch.right, spec.width);
    float* outside = reserve(scratch.outside, spec.width);
    bool touched = false;
    last_byte = 0;
    for (int i = 0; i < spec.width; ++i) {
        const double at = pixel_index(affine.xx * (i + 0.5) + affine.x0, image.width);
        const double low = std::floor(at);
        const int first = static_cast<int>(low);
        const float upper = static_cast<float>(at - low), lower = static_cast<float>(1.0 - (at - low));
        const bool has_first = first >= 0 && first < image.width;
        const bool has_second = first + 1 >= 0 && first + 1 < image.width;
        left[i] = has_first ? lower : (has_second ? upper : 0.0F);  // only pixel 0 has no left neighbour
        right[i] = has_first && has_second ? upper : 0.0F;
        outside[i] = (has_first ? 0.0F : lower) + (has_second ? 0.0F : upper);
        touched = touched || !has_first || !has_second;
        offset[i] = has_first ? first * image.channels : 0;
        last_byte = std::max(last_byte, offset[i] + kPairBytes);
    }
    const bool black = std::all_of(spec.border, spec.border + 3, [](float v) { return v == 0.0F; });
    return {offset, left, right, outside, spec.width, touched && !black};
}

template <int Channels>
LFPOSE_INLINE void sample_pairs(const std::uint32_t* LFPOSE_RESTRICT pairs, const Columns& columns,
                                float* LFPOSE_RESTRICT planes) {
    const int count = columns.count;
    const float *LFPOSE_RESTRICT left = columns.left, *LFPOSE_RESTRICT right = columns.right;
    for (int i = 0; i < count; ++i) {
        const std::uint32_t low = pairs[2 * i], high = pairs[2 * i + 1];
        const Tap a = tap<Channels>(low, high, 0), b = tap<Channels>(low, high, 1),
                  c = tap<Channels>(low, high, 2);
        planes[i] = a.left * left[i] + a.right * right[i];
        planes[count + i] = b.left * left[i] + b.right * right[i];
        planes[2 * count + i] = c.left * left[i] + c.right * right[i];
    }
}

LFPOSE_CLONES void sample_row(const std::uint8_t* row, int channels, const Columns& columns,
                              const float* border, std::uint32_t* LFPOSE_RESTRICT pairs,
                              float* LFPOSE_RESTRICT planes) {
    for (int i = 0; i < columns.count; ++i) std::memcpy(pairs + 2 * i, row + columns.offset[i], kPairBytes);
    if (channels == 3) {
        sample_pairs<3>(pairs, columns, planes);
    } else if (channels == 4) {
        sample_pairs<4>(pairs, columns, planes);
    } else {
        sample_pairs<1>(pairs, columns, planes);
    }
    if (!columns.border) return;
    for (int c = 0; c < 3; ++c) {
        float* LFPOSE_RESTRICT plane = planes + c * columns.count;
        for (int i = 0; i < columns.count; ++i) plane[i] += columns.outside[i] * border[c];
    }
}

// One channel of two sampled rows, with the weights and the bias that blend and normalise it.
struct Channel {
    const float *above, *below;
    float upper, lower, bias;
};

LFPOSE_INLINE float blended(const Channel& channel, int i) {
    return channel.above[i] * channel.upper + channel.below[i] * channel.lower;
}

template <typename Out>
LFPOSE_INLINE void blend_planes(const Channel* channels, int count, std::ptrdiff_t plane, Out* out) {
    for (int c = 0; c < 3; ++c) {
        const Channel channel = channels[c];
        Out* LFPOSE_RESTRICT row = out + c * plane;
        for (int i = 0; i < count; ++i) finish(blended(channel, i), 1.0F, channel.bias, row[i]);
    }
}

template <typename Out>
LFPOSE_INLINE void blend_pixels(const Channel* channels, int count, Out* LFPOSE_RESTRICT out) {
    const Channel a = channels[0], b = channels[1], c = channels[2];
    for (int i = 0; i < count; ++i) {
        finish(blended(a, i), 1.0F, a.bias, out[3 * i]);
        finish(blended(b, i), 1.0F, b.bias, out[3 * i + 1]);
        finish(blended(c, i), 1.0F, c.bias, out[3 * i + 2]);
    }
}

template <typename Out>
LFPOSE_INLINE void blend_row(const Channel* channels, const PreprocessSpec& spec, Out* out) {
    if (spec.channels_last) {
        blend_pixels(channels, spec.width, out);
    } else {
        blend_planes(channels, spec.width, spec.channel_step(), out);
    }
}

LFPOSE_CLONES void blend(const Channel* channels, const PreprocessSpec& spec, float* out) {
    blend_row(channels, spec, out);
}
LFPOSE_CLONES void blend(const Channel* channels, const PreprocessSpec& spec, std::uint8_t* out) {
    blend_row(channels, spec, out);
}

// The two source rows that were sampled last. All rows outside the image count as the same row.
class RowCache {
  public:
    RowCache(const ImageView& image, const Columns& columns, const float* border, int last_byte,
             PreprocessScratch& scratch)
        : image_(image),
          columns_(columns),
          border_(border),
          last_byte_(last_byte),
          tail_(reserve(scratch.tail, last_byte)),
          pairs_(reserve(scratch.pairs, std::ptrdiff_t{2} * columns.count)),
          rows_(reserve(scratch.rows, std::ptrdiff_t{6} * columns.count)) {}

    // The planes of rows y and y + 1, (3, count) each.
    std::pair<const float*, const float*> at(int y) {
        const int first = key(y), second = key(y + 1);
        // A slot that holds either row keeps it.
        const int slot = held_[0] == first || held_[1] == second ? 0 : 1;
        const int a = held_[1] == first ? 1 : slot;
        if (held_[a] != first) sample(first, a);
        if (second == first) return {planes(a), planes(a)};
        if (held_[1 - a] != second) sample(second, 1 - a);
        return {planes(a), planes(1 - a)};
    }

  private:
    static constexpr int kOutside = -1, kNothing = -2;

    int key(int y) const { return y < 0 || y >= image_.height ? kOutside : y; }
    float* planes(int slot) { return rows_ + static_cast<std::ptrdiff_t>(slot) * 3 * columns_.count; }

    void sample(int y, int slot) {
        held_[slot] = y;
        if (y == kOutside) {
            for (int c = 0; c < 3; ++c)
                std::fill_n(planes(slot) + c * columns_.count, columns_.count, border_[c]);
            return;
        }
        const std::uint8_t* row = image_.row(y);
        const std::ptrdiff_t readable = image_.end() - row;
        if (readable < last_byte_) {  // pairs are read as whole words, never past the image's memory
            std::memcpy(tail_, row, static_cast<std::size_t>(readable));
            row = tail_;
        }
        sample_row(row, image_.channels, columns_, border_, pairs_, planes(slot));
    }

    const ImageView& image_;
    const Columns& columns_;
    const float* border_;
    const int last_byte_;
    std::uint8_t* tail_;
    std::uint32_t* pairs_;
    float* rows_;
    int held_[2] = {kNothing, kNothing};
};

}  // namespace

template <typename Out>
void crop_axis_aligned(const ImageView& image, const Affine& affine, const PreprocessSpec& spec,
                       PreprocessScratch& scratch, Out* out) {
    int last_byte = 0;
    const Columns columns = make_columns(image, affine, spec, scratch, last_byte);
    RowCache rows(image, columns, spec.border, last_byte, scratch);
    for (int y = 0; y < spec.height; ++y) {
        const double at = pixel_index(affine.yy * (y + 0.5) + affine.y0, image.height);
        const double low = std::floor(at);
        const auto [above, below] = rows.at(static_cast<int>(low));
        const double weight = at - low;
        Channel channels[3];
        for (int c = 0; c < 3; ++c) {
            const std::ptrdiff_t source = static_cast<std::ptrdiff_t>(spec.source_channel(c)) * spec.width;
            const auto upper = static_cast<float>((1.0 - weight) * static_cast<double>(spec.scale[c]));
            const auto lower = static_cast<float>(weight * static_cast<double>(spec.scale[c]));
            channels[c] = {above + source, below + source, upper, lower, spec.bias[c]};
        }
        blend(channels, spec, out + std::ptrdiff_t{y} * spec.width * spec.pixel_step());
    }
}

template void crop_axis_aligned<float>(const ImageView&, const Affine&, const PreprocessSpec&,
                                       PreprocessScratch&, float*);
template void crop_axis_aligned<std::uint8_t>(const ImageView&, const Affine&, const PreprocessSpec&,
                                              PreprocessScratch&, std::uint8_t*);

}  // namespace lfpose
