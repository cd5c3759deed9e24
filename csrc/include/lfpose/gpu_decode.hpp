// Joints from CAMs on a GPU, in one launch. Specified by lfpose_edge/ops/reference.py.
#pragma once

#include <cuda_runtime_api.h>

#include "lfpose/decode_block.hpp"

namespace lfpose::cuda {

enum class Precision { float32, float16 };

// Pointers to device memory. `cams`, `flipped` and `presence` have the same precision.
struct DecodeArrays {
    int crops, joints, height, width;
    const void* cams;             // (crops, joints, height, width) logits
    const void* flipped;          // the same for the mirrored crops, or null
    const int* flip_permutation;  // (joints), if flipped
    const void* presence;         // (crops, joints) logits
    const double* affines;        // (crops, 2, 3)
    DecodeOutput output;
};

// Asynchronous. `plan` points to blur weights in device memory. Returns cudaErrorInvalidValue if a map and
// its window do not fit in the shared memory of a block.
cudaError_t decode(const DecodeArrays& arrays, const BlockPlan& plan, Precision precision,
                   cudaStream_t stream);

// Shared memory that a block needs for maps of height x width cells.
std::size_t decode_shared_bytes(const BlockPlan& plan, int height, int width);

}  // namespace lfpose::cuda
