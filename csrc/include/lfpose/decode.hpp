// CAM logits to joints, without ever writing the upsampled map. Specified by lfpose_edge/ops/reference.py.
#pragma once

#include <cstdint>

#include "lfpose/affine.hpp"

namespace lfpose {

enum class Refinement { none, quarter, dark, softargmax };

struct DecodeSpec {
    double stride;  // crop pixels per CAM cell
    int upsample;   // factor of the virtual upsampling
    Refinement method;
    double blur_sigma;  // cells, for dark
    int window;         // cells, for softargmax

    bool operator==(const DecodeSpec& o) const {
        return stride == o.stride && upsample == o.upsample && method == o.method &&
               blur_sigma == o.blur_sigma && window == o.window;
    }
};

struct CamBatch {
    const float* cams;                // (n, k, height, width)
    const float* flipped;             // the same of the mirrored crops, or null
    const std::int64_t* permutation;  // (k): each joint's mirror joint, with `flipped`
    const float* presence;            // (n, k) logits
    const double* affines;            // (n, 2, 3), crop to image
    int n, k, height, width;
};

struct Joints {
    float* keypoints;  // (n, k, 2) image pixels
    float* scores;     // (n, k)
    float* presence;   // (n, k)
};

void decode(const CamBatch& batch, const DecodeSpec& spec, const Joints& out, int threads);

// The largest value of an array: one pass over memory, the yardstick for the decoder.
float largest(const float* values, std::int64_t count);

}  // namespace lfpose
