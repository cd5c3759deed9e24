// The first and last parts of DARK: the Gaussian of the blur, and the step from blurred values to the joint.
#pragma once

#include <cmath>
#include <vector>

#include "lfpose/compiler.hpp"

namespace lfpose {

struct Offset {
    double x, y;  // upsampled pixels
};

// The weights of a normalised Gaussian of radius ceil(2.5 sigma).
inline std::vector<double> gaussian(double sigma) {
    const int radius = static_cast<int>(std::ceil(2.5 * sigma));
    std::vector<double> weights;
    double sum = 0.0;
    for (int i = -radius; i <= radius; ++i) {
        weights.push_back(std::exp(-0.5 * (i / sigma) * (i / sigma)));
        sum += weights.back();
    }
    for (double& weight : weights) weight /= sum;
    return weights;
}

LFPOSE_HD LFPOSE_INLINE double within(double x, double low, double high) {
    return x < low ? low : (x < high ? x : high);
}

// One Newton step on the logarithm of blurred probabilities at 3 x 3 positions, row-major, a cell apart
// (Zhang et al., Distribution-Aware Coordinate Representation for Human Pose Estimation, CVPR 2020).
LFPOSE_HD LFPOSE_INLINE Offset newton_step(const double* blurred, int factor) {
    constexpr double kFloor = 1e-10, kCurvature = 1e-4, kDeterminant = 1e-8;
    double b[9];
    for (int i = 0; i < 9; ++i) b[i] = blurred[i] > kFloor ? blurred[i] : kFloor;
    // Differences of logarithms, computed as logarithms of quotients: five instead of nine. Units: cells.
    const double center = b[4] * b[4];
    const double gx = 0.5 * log(b[5] / b[3]), gy = 0.5 * log(b[7] / b[1]);
    const double xx = log(b[5] * b[3] / center), yy = log(b[7] * b[1] / center);
    const double xy = 0.25 * log(b[8] * b[0] / (b[6] * b[2]));
    const double determinant = xx * yy - xy * xy;
    if (!(xx < -kCurvature && yy < -kCurvature && determinant > kDeterminant)) return {0.0, 0.0};
    const double dx = (xy * gy - yy * gx) / determinant, dy = (xy * gx - xx * gy) / determinant;
    return {within(dx, -1.0, 1.0) * factor, within(dy, -1.0, 1.0) * factor};
}

}  // namespace lfpose
