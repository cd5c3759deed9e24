// Joints from CAMs. Specified by lfpose_edge/ops/reference.py.
#pragma once

namespace lfpose {

enum class Method { none, quarter, dark, softargmax };

struct DecodeSpec {
    double stride;  // crop pixels per cell
    int upsample;
    Method method;
    double blur_sigma;  // cells
    int window;         // cells
};

struct DecodeInput {
    int crops, joints, height, width;
    const float* cams;            // (crops, joints, height, width) logits
    const float* flipped;         // the same for the mirrored crops, or null
    const int* flip_permutation;  // (joints), if flipped
    const float* presence;        // (crops, joints) logits
    const double* affines;        // (crops, 2, 3)
};

struct DecodeOutput {
    float* keypoints;  // (crops, joints, 2) image pixels
    float* scores;     // (crops, joints)
    float* presence;   // (crops, joints)
};

void decode(const DecodeInput& input, const DecodeSpec& spec, const DecodeOutput& output, int threads);

// The same with the CUDA kernel's algorithm (decode_block.hpp), for its tests. Always runs on one thread:
// `threads` is ignored.
void decode_by_blocks(const DecodeInput& input, const DecodeSpec& spec, const DecodeOutput& output,
                      int threads);

}  // namespace lfpose
