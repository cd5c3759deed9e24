// Crops of one image, sampled and normalised in one pass. Specified by lfpose_edge/ops/reference.py.
#pragma once

#include <cstddef>
#include <cstdint>

#include "lfpose/affine.hpp"

namespace lfpose {

struct ImageView {
    const std::uint8_t* data;
    int height, width;
    int channels;              // 1, 3 or 4
    std::ptrdiff_t row_bytes;  // from one row to the next; pixels of a row are adjacent
};

struct PreprocessSpec {
    int height, width;  // of a crop
    bool swap_rb;       // whether output channel 0 is the image's channel 2
    float scale[3];     // out = value * scale + bias, by output channel
    float bias[3];
    float border[3];  // grey levels outside the image, by image channel
};

// Writes n crops, (n, 3, height, width), float or rounded to uint8 (scale and bias are then unused).
template <typename Out>
void preprocess(const ImageView& image, const double* affines, int n, const PreprocessSpec& spec, Out* out,
                int threads);

}  // namespace lfpose
