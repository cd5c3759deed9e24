// Sanitising logits and converting them to probabilities.
#pragma once

#include <cmath>

#include "lfpose/compiler.hpp"

namespace lfpose {

// Logits are clamped to [-kLogitLimit, kLogitLimit], and NaN counts as -kLogitLimit. float16 can hold it.
constexpr float kLogitLimit = 1e4F;

LFPOSE_HD LFPOSE_INLINE float sanitize(float logit) {
    const float raised = logit > -kLogitLimit ? logit : -kLogitLimit;  // NaN fails the comparison
    return raised < kLogitLimit ? raised : kLogitLimit;
}

LFPOSE_HD LFPOSE_INLINE double sigmoid(double logit) {
    const double small = exp(-fabs(logit));
    return (logit >= 0.0 ? 1.0 : small) / (1.0 + small);
}

// The sigmoid of a presence logit; 0 for NaN.
LFPOSE_HD LFPOSE_INLINE float presence_of(float logit) {
    return logit == logit ? static_cast<float>(sigmoid(static_cast<double>(logit))) : 0.0F;
}

}  // namespace lfpose
