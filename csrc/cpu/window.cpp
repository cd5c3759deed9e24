#include <algorithm>
#include <cstddef>

#include "lfpose/lanes.hpp"
#include "lfpose/refine.hpp"

namespace lfpose {
namespace {

// Samples first .. first + count of a row, edges repeated.
LFPOSE_INLINE void clean_samples(const MapView& map, int y, int first, int count, float* out) {
    const std::ptrdiff_t start = static_cast<std::ptrdiff_t>(clamp_index(y, map.height)) * map.width + first;
    const std::ptrdiff_t size = static_cast<std::ptrdiff_t>(map.height) * map.width;
    if (first >= 0 && first + count <= map.width && start + (count + kLanes - 1) / kLanes * kLanes <= size) {
        Lanes low, high, value;
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

// Whole vectors of several cells each.
template <int Factor>
LFPOSE_INLINE void spread_cells(const float* samples, int cells, const float* weights, float* out) {
    float repeated[kLanes];
    for (int i = 0; i < kLanes; ++i) repeated[i] = weights[i % Factor];
    Lanes w;
    load(w, repeated);
    for (int cell = 0; cell < cells; cell += kLanes / Factor) {
        Lanes a, b;
        load(a, samples + cell);
        load(b, samples + cell + 1);
        spread<Factor>(a);
        spread<Factor>(b);
        lerp(a, a, b, w);
        store(out + cell * Factor, a);
    }
}

LFPOSE_INLINE void interpolate_row(const float* samples, int cells, int factor, const float* weights,
                                   float* out) {
    if (factor == 4) return spread_cells<4>(samples, cells, weights, out);
    if (factor == 2) return spread_cells<2>(samples, cells, weights, out);
    if (factor == 8) return spread_cells<8>(samples, cells, weights, out);
    for (int cell = 0; cell < cells; ++cell) {
        for (int i = 0; i < factor; ++i) {
            out[cell * factor + i] = lerp(samples[cell], samples[cell + 1], weights[i]);
        }
    }
}

LFPOSE_INLINE void blend_rows(const float* LFPOSE_RESTRICT top, const float* LFPOSE_RESTRICT bottom, float w,
                              int count, float* LFPOSE_RESTRICT out) {
    for (int x = 0; x < count; x += 8) {
        for (int lane = 0; lane < 8; ++lane) out[x + lane] = lerp(top[x + lane], bottom[x + lane], w);
    }
}

}  // namespace

std::vector<float> axis_weights(int factor) {
    std::vector<float> weights(static_cast<std::size_t>(factor));
    for (int i = 0; i < factor; ++i) weights[static_cast<std::size_t>(i)] = weight_in_cell(i, factor);
    return weights;
}

LFPOSE_CLONES void sample_window(const MapView& map, int factor, const std::vector<float>& weights,
                                 const Window& window, WindowScratch& scratch) {
    const int cx = cell_of(window.x, factor), cy = cell_of(window.y, factor);
    const int cells = cell_of(window.x + window.width - 1, factor) - cx + 1;
    const int rows = cell_of(window.y + window.height - 1, factor) - cy + 2;
    const int pitch = window_pitch(window.width, factor);
    // Every cell may be the last of a whole vector, and the window may ask for more cells than it touches.
    const int stride = (std::max(cells * factor, pitch) + 2 * kLanes - 1) / kLanes * kLanes;
    const int sample_stride = (cells + 1 + 3 * kLanes - 1) / kLanes * kLanes;
    float* samples = scratch.samples.reserve(rows * sample_stride);
    float* along_x = scratch.rows.reserve(rows * stride);
    // First all rows, then all rows again: a load that straddles a store just made would wait for it.
    for (int row = 0; row < rows; ++row)
        clean_samples(map, cy + row, cx, cells + 1, samples + row * sample_stride);
    for (int row = 0; row < rows; ++row) {
        interpolate_row(samples + row * sample_stride, cells, factor, weights.data(), along_x + row * stride);
    }
    scratch.lead = window.x - first_position(cx, factor);
    scratch.pitch = pitch;
    float* values = scratch.buffer.reserve(window.height * pitch + 2 * kLanes);
    scratch.values = values;
    ReadAhead ahead = scratch.ahead;
    int row = 0, i = window.y - first_position(cy, factor);
    for (int y = 0; y < window.height; ++y) {
        for (int lines = 0; lines < 4; ++lines) ahead.step();  // with those of the blur, a whole map
        const float* top = along_x + row * stride;
        blend_rows(top, top + stride, weights[static_cast<std::size_t>(i)], pitch, values + y * pitch);
        if (++i == factor) {
            i = 0;
            ++row;
        }
    }
    scratch.ahead = ahead;
}

}  // namespace lfpose
