// From a map's peak to the joint in the image.
#pragma once

#include <cstdint>

#include "lfpose/affine.hpp"
#include "lfpose/decode.hpp"
#include "lfpose/logit.hpp"
#include "lfpose/upsample.hpp"

namespace lfpose {

// Writes the keypoint, score and presence of map `index` to the output.
LFPOSE_HD LFPOSE_INLINE void write_joint(const DecodeOutput& output, const double* affines, int joints,
                                         float presence_logit, std::int64_t index, const Peak& peak, double x,
                                         double y) {
    const Affine affine = Affine::from(affines + index / joints * 6);
    output.keypoints[2 * index] = static_cast<float>(affine.x(x, y));
    output.keypoints[2 * index + 1] = static_cast<float>(affine.y(x, y));
    output.scores[index] = static_cast<float>(sigmoid(static_cast<double>(peak.value)));
    output.presence[index] = presence_of(presence_logit);
}

}  // namespace lfpose
