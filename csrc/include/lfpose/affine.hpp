// The crop affine: maps crop coordinates to image coordinates, both continuous (pixel centres at + 0.5).
#pragma once

#include "lfpose/compiler.hpp"

namespace lfpose {

struct Affine {
    double xx, xy, x0;  // image x = xx * crop x + xy * crop y + x0
    double yx, yy, y0;

    // `values`: 2 x 3, row-major.
    LFPOSE_HD static Affine from(const double* values) {
        return {values[0], values[1], values[2], values[3], values[4], values[5]};
    }
    LFPOSE_HD double x(double cx, double cy) const { return xx * cx + xy * cy + x0; }
    LFPOSE_HD double y(double cx, double cy) const { return yx * cx + yy * cy + y0; }
    LFPOSE_HD bool axis_aligned() const { return xy == 0.0 && yx == 0.0; }
};

// Converts a continuous coordinate to a pixel index along an axis of `pixels` pixels, clamped to
// [-2, pixels + 1]: how far outside the image a position lies does not matter. NaN, from an overflow, becomes
// -2.
LFPOSE_HD LFPOSE_INLINE double pixel_index(double coordinate, int pixels) {
    const double at = coordinate - 0.5;
    const double raised = at > -2.0 ? at : -2.0;
    return raised < pixels + 1.0 ? raised : pixels + 1.0;
}

}  // namespace lfpose
