// No peak depends on this file, so it alone is compiled with fused multiply-adds (CMakeLists.txt).
#include "lfpose/refine.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "lfpose/lanes.hpp"

namespace lfpose {
namespace {

// exp(x) for |x| <= 87, with a relative error of about 1e-7.
LFPOSE_INLINE float fast_exp(float x) {
    constexpr float kToNearest =
        12582912.0F;  // adding 1.5 * 2^23 rounds, and leaves the integer in the low bits
    const float shifted = x * 1.44269504F + kToNearest;
    const float r = x - (shifted - kToNearest) * 0.69314718F;
    // Minimax on |r| <= ln 2 / 2.
    float p = 8.297583088e-03F;
    p = p * r + 4.191587493e-02F;
    p = p * r + 1.666757762e-01F;
    p = p * r + 4.999889135e-01F;
    p = p * r + 9.999997020e-01F;
    p = p * r + 1.000000119e+00F;
    std::int32_t bits, power;
    std::memcpy(&bits, &p, sizeof bits);
    std::memcpy(&power, &shifted, sizeof power);
    bits += static_cast<std::int32_t>(static_cast<std::uint32_t>(power) << 23);  // times 2^n
    std::memcpy(&p, &bits, sizeof p);
    return p;
}

LFPOSE_INLINE float clamp(float x, float low, float high) {
    const float raised = x > low ? x : low;
    return raised < high ? raised : high;
}

// Sigmoids of two arrays of `half` values each, in place. Two sigmoids share one division, the slowest
// operation here. The logits are clamped so that the product of the denominators cannot overflow; no sigmoid
// is therefore below about 6e-19, which is negligible beside the floor of the logarithm.
LFPOSE_CLONES void sigmoids(float* LFPOSE_RESTRICT first, float* LFPOSE_RESTRICT second, int half) {
    constexpr float kLimit = 42.0F;
    for (int i = 0; i < half; ++i) {
        const float a = 1.0F + fast_exp(clamp(-first[i], -kLimit, kLimit));
        const float b = 1.0F + fast_exp(clamp(-second[i], -kLimit, kLimit));
        const float shared = 1.0F / (a * b);
        first[i] = b * shared;
        second[i] = a * shared;
    }
}

LFPOSE_CLONES void exponentials(float* values, int count, float peak) {
    for (int i = 0; i < count; ++i) values[i] = fast_exp(clamp(values[i] - peak, -87.0F, 0.0F));
}

// The sum of every column, and the sum of value times row, where rows are numbered from `first`.
LFPOSE_CLONES void sum_columns(const float* p, int rows, int pitch, int first, double* columns,
                               double* moments) {
    for (int x = 0; x < pitch; x += 8) {
        Doubles column, moment, value;
        clear(column);
        clear(moment);
        for (int y = 0; y < rows; ++y) {
            load(value, p + y * pitch + x);
            add(column, value);
            add_product(moment, value, static_cast<double>(first + y));
        }
        store(columns + x, column);
        store(moments + x, moment);
    }
}

// Blurs the window at 3 x 3 positions: along y into three rows of sums, then along x.
LFPOSE_CLONES void blur(const DarkKernel& kernel, WindowScratch& scratch, const float* p, double* sums,
                        double* blurred, ReadAhead& read_ahead) {
    const int size = kernel.size, pitch = kernel.pitch, rows = 2 * kernel.reach + 1;
    const double* before = kernel.arms.data();
    const double *at = before + size, *after = at + size;
    ReadAhead ahead = read_ahead;
    for (int x = 0; x < pitch; x += 8) {
        Doubles kept[2][3], value;  // even and odd rows: six independent sums
        for (auto& parity : kept) {
            for (Doubles& sum : parity) clear(sum);
        }
        const auto take = [&](int y, Doubles(&sum)[3]) {
            load(value, p + y * pitch + x);
            add_product(sum[0], value, before[y]);
            add_product(sum[1], value, at[y]);
            add_product(sum[2], value, after[y]);
        };
        for (int y = 0; y + 1 < rows; y += 2) {
            take(y, kept[0]);
            take(y + 1, kept[1]);
            ahead.step();
        }
        take(rows - 1, kept[0]);  // the number of rows is odd
        for (int arm = 0; arm < 3; ++arm) {
            add(kept[0][arm], kept[1][arm]);
            store(sums + arm * pitch + x, kept[0][arm]);
        }
    }
    const double* along_x = kernel.lead_arms.data() + static_cast<std::ptrdiff_t>(scratch.lead) * 3 * size;
    read_ahead = ahead;
    for (int row = 0; row < 3; ++row) {
        for (int arm = 0; arm < 3; ++arm) {
            Doubles sum, value, weight;
            clear(sum);
            for (int x = 0; x < pitch; x += 8) {
                load(value, sums + row * pitch + x);
                load(weight, along_x + arm * size + x);
                add_product(sum, value, weight);
            }
            blurred[3 * row + arm] = total(sum);
        }
    }
}

}  // namespace

DarkKernel::DarkKernel(double sigma_cells, int per_cell) {
    const std::vector<double> gauss = gaussian(sigma_cells * per_cell);
    reach = static_cast<int>(gauss.size()) / 2 + per_cell;
    pitch = window_pitch(2 * reach + 1, per_cell);
    size = pitch;
    lead_arms.assign(static_cast<std::size_t>(3 * per_cell * size), 0.0);
    for (int lead = 0; lead < per_cell; ++lead) {
        for (int arm = 0; arm < 3; ++arm) {
            std::copy(gauss.begin(), gauss.end(),
                      lead_arms.begin() + (3 * lead + arm) * size + lead + arm * per_cell);
        }
    }
    arms.assign(lead_arms.begin(), lead_arms.begin() + 3 * size);
}

Offset dark_offset(const DarkKernel& kernel, int factor, WindowScratch& scratch, ReadAhead& ahead) {
    const int count = (2 * kernel.reach + 1) * kernel.pitch;
    const int half = (count + 2 * kLanes - 1) / (2 * kLanes) * kLanes;  // whole vectors, no remainder
    float* p = scratch.values;
    sigmoids(p, p + half, half);

    double blurred[9];
    blur(kernel, scratch, p, scratch.sums.reserve(3 * kernel.pitch), blurred, ahead);
    return newton_step(blurred, factor);
}

Offset softargmax_offset(const Window& window, const Peak& peak, WindowScratch& scratch) {
    float* p = scratch.values;
    exponentials(p, window.height * scratch.pitch, peak.value);
    double* columns = scratch.sums.reserve(2 * scratch.pitch);
    double* moments = columns + scratch.pitch;
    sum_columns(p, window.height, scratch.pitch, window.y - peak.y, columns, moments);
    double mass = 0.0, x_moment = 0.0, y_moment = 0.0;
    for (int x = 0; x < window.width; ++x) {
        const double column = columns[scratch.lead + x];
        mass += column;
        x_moment += column * (window.x + x - peak.x);
        y_moment += moments[scratch.lead + x];
    }
    return {x_moment / mass, y_moment / mass};
}

}  // namespace lfpose
