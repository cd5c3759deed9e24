// All crops of one frame on a GPU, in one launch. Specified by lfpose_edge/ops/reference.py.
#pragma once

#include <cuda_runtime_api.h>

#include "lfpose/crop_point.hpp"

namespace lfpose::cuda {

// Element type of a network's input. `int8` is value * scale + bias, rounded; the caller divides scale and
// bias by the quantisation step.
enum class Pixel { float32, float16, int8 };

// Asynchronous. The image's planes, `plans` (n) and `out` (n, 3, height, width) are in device memory.
cudaError_t preprocess(const PackedImage& image, const CropPlan* plans, int n, const PreprocessSpec& spec,
                       Pixel pixel, void* out, cudaStream_t stream);
cudaError_t preprocess(const Nv12Image& image, const CropPlan* plans, int n, const PreprocessSpec& spec,
                       Pixel pixel, void* out, cudaStream_t stream);

}  // namespace lfpose::cuda
