// Crops of one frame on a GPU, all in one launch. Specified by lfpose_edge/ops/reference.py.
#pragma once

#include <cuda_runtime_api.h>

#include "lfpose/crop_point.hpp"

namespace lfpose::cuda {

// What a network's input is made of. `int8` is value * scale + bias, rounded: the scale is divided by the
// step of the quantisation beforehand.
enum class Pixel { float32, float16, int8 };

// Asynchronous. `image` points to device memory, `plans` (n) and `out` (n, 3, height, width) too.
cudaError_t preprocess(const PackedImage& image, const CropPlan* plans, int n, const PreprocessSpec& spec,
                       Pixel pixel, void* out, cudaStream_t stream);
cudaError_t preprocess(const Nv12Image& image, const CropPlan* plans, int n, const PreprocessSpec& spec,
                       Pixel pixel, void* out, cudaStream_t stream);

}  // namespace lfpose::cuda
