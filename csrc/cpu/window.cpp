#include <algorithm>
#include <cstddef>

#include "lfpose/lanes.hpp"
#include "lfpose/refine.hpp"

namespace lfpose {
namespace {

// Sanitised samples [first, first + count) of a row; the samples at its edges are repeated beyond them.
template <int Part>
LFPOSE_INLINE void clean_samples(const MapView& map, int y, int first, int count, float* out) {
    const std::ptrdiff_t start = static_cast<std::ptrdiff_t>(clamp_index(y, map.height)) * map.width + first;
    const std::ptrdiff_t size = static_cast<std::ptrdiff_t>(map.height) * map.width;
    if (first >= 0 && first + count <= map.width && start + (count + kLanes - 1) / kLanes * kLanes <= size) {
        Lanes<Part> low, high, value;
        for (int i = 0; i < count; i += kLanes) {
            fill(low, -kLogitLimit);
            fill(high, kLogitLimit);
            load(value, map.data + start + i);
            keep_larger(low, value);
            keep_smaller(high, low);
            store(out + i, high);
        }
        return;
    }
    for (int i = 0; i < count; ++i) out[i] = map.at(y, first + i);
}

// Interpolates in whole vectors of several cells each.
template <int PerCell, int Part>
LFPOSE_INLINE void spread_cells(const float* samples, int cells, const float* weights, float* out) {
    float repeated[kLanes];
    for (int i = 0; i < kLanes; ++i) repeated[i] = weights[i % PerCell];
    Lanes<Part> w;
    load(w, repeated);
    for (int cell = 0; cell < cells; cell += kLanes / PerCell) {
        Lanes<Part> a, b;
        load(a, samples + cell);
        load(b, samples + cell + 1);
        spread<PerCell>(a);
        spread<PerCell>(b);
        lerp(a, a, b, w);
        store(out + cell * PerCell, a);
    }
}

template <int Part>
LFPOSE_INLINE void interpolate_row(const float* samples, int cells, int per_cell, const float* weights,
                                   float* out) {
    if (per_cell == 2) return spread_cells<2, Part>(samples, cells, weights, out);
    if (per_cell == 4) return spread_cells<4, Part>(samples, cells, weights, out);
    if (per_cell == 8) return spread_cells<8, Part>(samples, cells, weights, out);
    for (int cell = 0; cell < cells; ++cell) {
        for (int i = 0; i < per_cell; ++i) {
            out[cell * per_cell + i] = lerp(samples[cell], samples[cell + 1], weights[i]);
        }
    }
}

LFPOSE_INLINE void blend_rows(const float* LFPOSE_RESTRICT top, const float* LFPOSE_RESTRICT bottom, float w,
                              int count, float* LFPOSE_RESTRICT out) {
    for (int x = 0; x < count; x += 8) {
        for (int lane = 0; lane < 8; ++lane) out[x + lane] = lerp(top[x + lane], bottom[x + lane], w);
    }
}

// Where a window's samples lie along one axis.
struct Axis {
    int cell, cells;       // the first cell, and how many there are
    int lead;              // samples of the first cell that come before the window
    const float* weights;  // of a cell's samples

    Axis(const SampleGrid& grid, int position, int count) {
        const int from_cells = position - first_position(0, grid.factor);
        const int sample = floor_divide(from_cells, grid.step);
        cell = floor_divide(sample, grid.per_cell);
        lead = sample - cell * grid.per_cell;
        cells = (lead + count - 1) / grid.per_cell + 1;
        weights = grid.weights.data() + (from_cells - sample * grid.step) * grid.per_cell;
    }
};

template <int Part>
LFPOSE_INLINE void sample(const MapView& map, const SampleGrid& grid, const Window& window,
                          WindowScratch& scratch, ReadAhead& read_ahead) {
    const Axis x_axis(grid, window.x, window.width), y_axis(grid, window.y, window.height);
    const int cells = x_axis.cells, rows = y_axis.cells + 1;
    const int pitch = window_pitch(window.width, grid.per_cell);
    // Whole vectors may be written beyond the last cell, and the pitch may exceed the cells of the window.
    const int stride = (std::max(cells * grid.per_cell, pitch) + 2 * kLanes - 1) / kLanes * kLanes;
    const int sample_stride = (cells + 1 + 3 * kLanes - 1) / kLanes * kLanes;
    float* samples = scratch.samples.reserve(rows * sample_stride);
    float* along_x = scratch.rows.reserve(rows * stride);
    // Values beside the window have no weight, but must still not be left over from another map: the rounding
    // of a sigmoid depends on the one that it shares a division with.
    std::fill_n(samples, rows * sample_stride, 0.0F);
    std::fill_n(along_x, rows * stride, 0.0F);
    // Two passes over all rows: a load that straddles a store just made would wait for it.
    ReadAhead ahead = read_ahead;
    for (int row = 0; row < rows; ++row) {
        for (int line = 0; line < 2; ++line) ahead.step();
        clean_samples<Part>(map, y_axis.cell + row, x_axis.cell, cells + 1, samples + row * sample_stride);
    }
    for (int row = 0; row < rows; ++row) {
        for (int line = 0; line < 2; ++line) ahead.step();
        interpolate_row<Part>(samples + row * sample_stride, cells, grid.per_cell, x_axis.weights,
                              along_x + row * stride);
    }
    scratch.lead = x_axis.lead;
    scratch.pitch = pitch;
    float* values = scratch.buffer.reserve(window.height * pitch + 2 * kLanes);
    scratch.values = values;
    std::fill_n(values + window.height * pitch, 2 * kLanes, 0.0F);
    int row = 0, i = y_axis.lead;
    for (int y = 0; y < window.height; ++y) {
        for (int line = 0; line < 3; ++line) ahead.step();
        const float* top = along_x + row * stride;
        blend_rows(top, top + stride, y_axis.weights[i], pitch, values + y * pitch);
        if (++i == grid.per_cell) {
            i = 0;
            ++row;
        }
    }
    read_ahead = ahead;
}

LFPOSE_BY_WIDTH(void sampled(const MapView& map, const SampleGrid& grid, const Window& window,
                             WindowScratch& scratch, ReadAhead& ahead),
                sample<kPart>(map, grid, window, scratch, ahead);)

}  // namespace

SampleGrid::SampleGrid(int factor, int step) : factor(factor), step(step), per_cell(factor / step) {
    for (int first = 0; first < step; ++first) {
        for (int i = 0; i < per_cell; ++i) weights.push_back(weight_in_cell(first + i * step, factor));
    }
}

void sample_window(const MapView& map, const SampleGrid& grid, const Window& window, WindowScratch& scratch,
                   ReadAhead& ahead) {
    sampled(map, grid, window, scratch, ahead);
}

}  // namespace lfpose
