// Virtual bilinear upsampling by an integer factor, half-pixel centres, edges repeated.
//
// The arithmetic is fixed to the last bit (float32, no fused multiply-add, along x and then along y), so that
// every implementation finds the same peak: see lfpose_edge/ops/reference.py, upsample_bilinear.
#pragma once

#include "lfpose/compiler.hpp"

namespace lfpose {

// Where an upsampled position lies between two cells of an axis.
struct Tap {
    int lower, upper;
    float weight;  // of the upper cell

    LFPOSE_HD static Tap at(int position, int cells, int factor) {
        // The position is (position + 1/2) / factor - 1/2 cells: this many halves of 1 / factor.
        const int halves = 2 * position + 1 - factor;
        const int low = halves < 0 ? -1 : halves / (2 * factor);
        const int rest = halves - low * 2 * factor;
        // The exact quotient, rounded once.
        const float weight = static_cast<float>(static_cast<double>(rest) / (2 * factor));
        return {low < 0 ? 0 : low, low + 1 < cells ? low + 1 : cells - 1, weight};
    }
};

LFPOSE_HD LFPOSE_INLINE float lerp(float a, float b, float weight) {
#ifdef __CUDA_ARCH__
    return __fadd_rn(a, __fmul_rn(weight, __fsub_rn(b, a)));
#else
    return a + weight * (b - a);
#endif
}

// Upsampled positions whose lower cell is `quad` - 1, for quad in 0..cells: first(quad) to first(quad + 1)
// - 1.
LFPOSE_HD LFPOSE_INLINE int first_position(int quad, int cells, int factor) {
    if (quad <= 0) return 0;
    if (quad > cells) return cells * factor;
    return factor * (quad - 1) + factor / 2;
}

}  // namespace lfpose
