// The crop affine: crop coordinates to image coordinates, continuous (pixel centres at + 0.5).
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

// A pixel index along an axis of `pixels`, from a continuous coordinate. Beyond the image by two pixels or
// by two million, or NaN after an overflow, is outside all the same.
LFPOSE_HD LFPOSE_INLINE double pixel_index(double coordinate, int pixels) {
    const double at = coordinate - 0.5;
    const double raised = at > -2.0 ? at : -2.0;
    return raised < pixels + 1.0 ? raised : pixels + 1.0;
}

}  // namespace lfpose
