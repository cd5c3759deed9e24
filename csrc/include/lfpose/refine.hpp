// Refines an upsampled peak to a fraction of an upsampled pixel.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "lfpose/dark.hpp"
#include "lfpose/read_ahead.hpp"
#include "lfpose/upsample.hpp"

namespace lfpose {

// A buffer that grows, aligned to cache lines; its contents do not survive growth.
template <typename T>
class AlignedBuffer {
  public:
    // At least `size` values, all of them initialised.
    T* reserve(int size) {
        const auto wanted = static_cast<std::size_t>(size) + kLine;
        if (storage_.size() < wanted) storage_.resize(wanted);
        void* start = storage_.data();
        std::size_t space = storage_.size() * sizeof(T);
        return static_cast<T*>(
            std::align(kLine * sizeof(T), static_cast<std::size_t>(size) * sizeof(T), start, space));
    }

  private:
    static constexpr std::size_t kLine = 64 / sizeof(T);
    std::vector<T> storage_;
};

// Upsampled positions that lie `step` apart, `per_cell` of them in every interpolation cell.
struct SampleGrid {
    int factor, step, per_cell;
    std::vector<float> weights;  // (step, per_cell) of the upper sample, for every first position in a cell

    SampleGrid(int factor, int step);
};

// A rectangle of samples; outside the map the nearest position's value is repeated.
struct Window {
    int x, y;           // upsampled position of the first sample
    int width, height;  // samples
};

struct WindowScratch {
    AlignedBuffer<float> samples;  // rows of the map
    AlignedBuffer<float> rows;     // the same, interpolated along x
    AlignedBuffer<float> buffer;   // of the values
    // The window, row-major. Its rows begin at the first position of their first cell, `lead` columns early,
    // and are padded on the right to a pitch of whole vectors, so that few vectors straddle a cache line. Two
    // more vectors after the last row may be read.
    float* values = nullptr;
    int lead = 0, pitch = 0;
    AlignedBuffer<double> sums;
};

// Columns of a window that may start anywhere within a cell, rounded up to whole vectors.
inline int window_pitch(int width, int per_cell) { return (width + per_cell - 1 + 7) / 8 * 8; }

// Fills scratch.values; every value is bit-identical to that of upsampled_at.
void sample_window(const MapView& map, const SampleGrid& grid, const Window& window, WindowScratch& scratch,
                   ReadAhead& ahead);

// DARK's blur at three positions of an axis, one cell apart: zero-padded kernels over one window.
struct DarkKernel {
    int reach;  // the window spans 2 reach + 1 samples
    int pitch;
    int size;                       // doubles from one arm to the next
    std::vector<double> arms;       // (3, size), along y
    std::vector<double> lead_arms;  // (per_cell, 3, size), along x: for every lead of the window

    DarkKernel(double sigma_cells, int per_cell);
};

// One Newton step on the log of the blurred probabilities (Zhang et al., Distribution-Aware Coordinate
// Representation for Human Pose Estimation, CVPR 2020). scratch.values: the window around the peak,
// which is overwritten.
Offset dark_offset(const DarkKernel& kernel, int factor, WindowScratch& scratch, ReadAhead& ahead);

// The expected offset under exp(value - peak). scratch.values: `window`, which is overwritten.
Offset softargmax_offset(const Window& window, const Peak& peak, WindowScratch& scratch);

}  // namespace lfpose
