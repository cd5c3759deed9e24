// Crops of one image, sampled and normalised in one pass. Specified by lfpose_edge/ops/reference.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "lfpose/affine.hpp"

namespace lfpose {

struct ImageView {
    const std::uint8_t* data;
    int height, width;
    int channels;              // 1, 3 or 4
    std::ptrdiff_t row_bytes;  // from one row to the next, may be negative; pixels of a row are adjacent

    const std::uint8_t* row(std::ptrdiff_t y) const { return data + y * row_bytes; }
    const std::uint8_t* lowest() const { return row_bytes < 0 ? row(height - 1) : data; }
    // One past the last byte that may be read.
    const std::uint8_t* end() const {
        return (row_bytes < 0 ? data : row(height - 1)) + static_cast<std::ptrdiff_t>(width) * channels;
    }
};

struct PreprocessSpec {
    int height, width;  // of a crop
    bool swap_rb;       // whether output channel 0 is the image's channel 2
    float scale[3];     // out = value * scale + bias, by output channel
    float bias[3];
    float border[3];             // grey levels outside the image, by image channel
    bool channels_last = false;  // (height, width, 3) in memory instead of (3, height, width); CPU only

    LFPOSE_HD int source_channel(int output) const { return swap_rb ? 2 - output : output; }
    std::ptrdiff_t channel_step() const { return channels_last ? 1 : std::ptrdiff_t{height} * width; }
    std::ptrdiff_t pixel_step() const { return channels_last ? 3 : 1; }
};

// Bytes that are read for two horizontally adjacent pixels, whatever their channels (at most 4 each).
constexpr int kPairBytes = 8;

// Buffers of one thread, reused from crop to crop.
struct PreprocessScratch {
    std::vector<int> offset;            // (width) position of a pair's first byte in a row
    std::vector<float> left, right;     // (width) weights of the pair's pixels
    std::vector<float> outside;         // (width) weight of the border
    std::vector<std::uint32_t> pairs;   // (2, width, 2)
    std::vector<std::uint8_t> tail;     // a copy of a row that ends where the image's memory ends
    std::vector<float> rows;            // (2, 3, width) sampled source rows
    std::vector<double> x, y;           // (width) sampling positions
    std::vector<std::ptrdiff_t> bytes;  // (width) position of the upper left tap
    std::vector<std::uint8_t> edge;     // (width) whether a pixel takes the slow path
};

// Writes n crops, one after the other, as float or rounded to uint8 (scale and bias are then unused).
template <typename Out>
void preprocess(const ImageView& image, const double* affines, std::ptrdiff_t n, const PreprocessSpec& spec,
                Out* out, int threads);

// The same with the CUDA kernel's algorithm (crop_point.hpp), for its tests. Always runs on one thread:
// `threads` is ignored.
template <typename Out>
void preprocess_by_points(const ImageView& image, const double* affines, std::ptrdiff_t n,
                          const PreprocessSpec& spec, Out* out, int threads);

// The same for an NV12 image, given as a grey image of 3/2 its height: the chroma rows follow the luma rows.
template <typename Out>
void preprocess_nv12_by_points(const ImageView& image, const double* affines, std::ptrdiff_t n,
                               const PreprocessSpec& spec, Out* out, int threads);

// One crop with an affine without rotation or shear.
template <typename Out>
void crop_axis_aligned(const ImageView& image, const Affine& affine, const PreprocessSpec& spec,
                       PreprocessScratch& scratch, Out* out);

// One crop with any affine.
template <typename Out>
void crop_general(const ImageView& image, const Affine& affine, const PreprocessSpec& spec,
                  PreprocessScratch& scratch, Out* out);

}  // namespace lfpose
