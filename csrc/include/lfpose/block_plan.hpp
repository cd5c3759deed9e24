// The plan and the blur weights that a decode by thread blocks (decode_block.hpp) prepares once.
#pragma once

#include <vector>

#include "lfpose/dark.hpp"
#include "lfpose/decode_block.hpp"

namespace lfpose {

// The blur weights of a decode. Its plan points to them or to a copy in GPU memory.
inline std::vector<double> blur_weights(const DecodeSpec& spec) {
    return gaussian(spec.blur_sigma * (spec.upsample / blur_step(spec.upsample)));
}

inline BlockPlan block_plan(const DecodeSpec& spec, const std::vector<double>& host_weights,
                            const double* weights) {
    const int step = blur_step(spec.upsample), radius = static_cast<int>(host_weights.size()) / 2;
    const int per_cell = spec.upsample / step;
    return {spec.upsample,
            spec.method,
            spec.stride,
            spec.window,
            {step, per_cell, radius, radius + per_cell, weights}};
}

}  // namespace lfpose
