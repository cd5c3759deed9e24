// The exact maximum of an upsampled map, without upsampling it.
#pragma once

#include <vector>

#include "lfpose/lanes.hpp"
#include "lfpose/read_ahead.hpp"
#include "lfpose/upsample.hpp"

namespace lfpose {

// Weights of every position of an interpolation cell, row-major, padded to whole lanes.
struct CellWeights {
    int factor;
    int chunks;  // of kLanes positions
    std::vector<float> x, y;

    explicit CellWeights(int factor);
};

struct PeakScratch {
    std::vector<float> band_max;
    std::vector<float> values;  // of one cell
};

// The first maximum, in row-major order, of the map upsampled by `weights.factor`.
Peak find_peak(const MapView& map, const CellWeights& weights, PeakScratch& scratch, ReadAhead& ahead);

// The largest of `count` floats, to measure what reading a CAM once costs.
float read_once(const float* data, std::size_t count);

}  // namespace lfpose
