// Decodes the joint of one map with a block of cooperating threads. This is the CUDA kernel's algorithm; with
// a block of one thread it also runs on the CPU, so that it can be tested without a GPU. Specified by
// lfpose_edge/ops/reference.py.
//
// A Block provides
//   for_each(count, f)   calls f(i) for every i in [0, count), each thread in ascending order; returns when
//                        all calls have returned
//   best(peak)           returns the best of all threads' peaks to every thread
//   sum(a, b, c)         replaces a, b and c by their sums over all threads, in every thread
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "lfpose/dark.hpp"
#include "lfpose/joint.hpp"
#include "lfpose/upsample.hpp"

namespace lfpose {

// The blur of DARK for a decode: a Gaussian over samples that lie `step` upsampled positions apart.
struct BlurPlan {
    int step, per_cell;   // per_cell: samples per cell
    int radius, reach;    // of one Gaussian; of the window that three of them, one cell apart, need
    const double* gauss;  // (2 radius + 1)

    LFPOSE_HD LFPOSE_INLINE int span() const { return 2 * reach + 1; }
};

// Parameters common to all blocks of a launch.
struct BlockPlan {
    int factor;
    Method method;
    double stride;
    int window;  // cells; for softargmax
    BlurPlan blur;
};

// Memory shared by the threads of a block.
struct BlockMemory {
    double* sums;    // (3, span), followed by the 9 blurred values
    float* samples;  // (height, width), sanitised logits
    float* window;   // (span, span), for DARK

    // Places all three arrays in `memory`, one after the other.
    static LFPOSE_HD LFPOSE_INLINE BlockMemory within(double* memory, const BlockPlan& plan, int height,
                                                      int width) {
        auto* samples = reinterpret_cast<float*>(memory + sum_count(plan));
        return {memory, samples, samples + height * width};
    }

    static LFPOSE_HD LFPOSE_INLINE std::size_t bytes(const BlockPlan& plan, int height, int width) {
        const int span = plan.method == Method::dark ? plan.blur.span() : 0;
        return sizeof(double) * static_cast<std::size_t>(sum_count(plan)) +
               sizeof(float) * (static_cast<std::size_t>(height) * static_cast<std::size_t>(width) +
                                static_cast<std::size_t>(span) * static_cast<std::size_t>(span));
    }

  private:
    static LFPOSE_HD LFPOSE_INLINE int sum_count(const BlockPlan& plan) {
        return plan.method == Method::dark ? 3 * plan.blur.span() + 9 : 0;
    }
};

// Reads the logits of one map, averaged with those of the mirrored crop if there is one. `Logit` must convert
// to float.
template <typename Logit>
class MapReader {
  public:
    LFPOSE_HD LFPOSE_INLINE MapReader(const Logit* cams, const Logit* flipped, const int* flip_permutation,
                                      int joints, int height, int width, std::int64_t index)
        : width_(width), map_(cams + index * height * width), mirrored_(nullptr) {
        if (flipped == nullptr) return;
        const std::int64_t joint = index % joints;
        mirrored_ = flipped + (index - joint + flip_permutation[joint]) * height * width;
    }

    LFPOSE_HD LFPOSE_INLINE float operator()(int i) const {
        const float value = static_cast<float>(map_[i]);
        if (mirrored_ == nullptr) return value;
        const int mirror = i / width_ * width_ + width_ - 1 - i % width_;
        return 0.5F * (sanitize(value) + sanitize(static_cast<float>(mirrored_[mirror])));
    }

  private:
    int width_;
    const Logit* map_;
    const Logit* mirrored_;
};

template <typename Block>
class BlockDecoder {
  public:
    LFPOSE_HD LFPOSE_INLINE BlockDecoder(Block& block, const BlockPlan& plan, const BlockMemory& memory,
                                         int height, int width)
        : block_(block), plan_(plan), memory_(memory), map_{memory.samples, height, width} {}

    // Reads the logits with read(i), i in row-major order. Every thread gets the peak and its crop
    // coordinates.
    template <typename Read>
    LFPOSE_HD LFPOSE_INLINE Peak decode(const Read& read, double& crop_x, double& crop_y) const {
        const Peak peak = find_peak(read);
        double dx = 0.0, dy = 0.0;
        if (plan_.method == Method::quarter) quarter(peak, dx, dy);
        if (plan_.method == Method::dark) dark(peak, dx, dy);
        if (plan_.method == Method::softargmax) softargmax(peak, dx, dy);
        crop_x = crop_coordinate(peak.x, dx, plan_.stride, plan_.factor, map_.width);
        crop_y = crop_coordinate(peak.y, dy, plan_.stride, plan_.factor, map_.height);
        return peak;
    }

  private:
    // Replaces `best` by the upsampled position (x, y) if that is inside the map and better.
    LFPOSE_HD LFPOSE_INLINE void consider(int x, int y, Peak& best) const {
        if (x < 0 || y < 0 || x >= map_.width * plan_.factor || y >= map_.height * plan_.factor) return;
        const float value = upsampled_at(map_, plan_.factor, x, y);
        if (best.yields_to(value, x, y)) best = {x, y, value};
    }

    template <typename Read>
    LFPOSE_HD LFPOSE_INLINE Peak find_peak(const Read& read) const {
        const int width = map_.width, count = map_.height * width, factor = plan_.factor;
        float largest = -2 * kLogitLimit;
        int where = 0;
        block_.for_each(count, [&](int i) {
            const float value = sanitize(read(i));
            memory_.samples[i] = value;
            if (value > largest) {  // in ascending order: keeps the first of equals
                largest = value;
                where = i;
            }
        });
        const Peak seed = block_.best({where % width, where / width, largest});
        if (factor == 1) return seed;

        // First the cells around the largest sample: few other samples reach the value found there.
        const int side = 2 * factor;
        const int x0 = first_position(seed.x - 1, factor), y0 = first_position(seed.y - 1, factor);
        Peak mine{width * factor, map_.height * factor, -2 * kLogitLimit};
        block_.for_each(side * side, [&](int i) { consider(x0 + i % side, y0 + i / side, mine); });
        mine = block_.best(mine);
        // A bilinear value never exceeds the largest of its samples; an equal one may come earlier.
        const auto reaches = [&](int i) {
            const float value = memory_.samples[i];
            if (value < mine.value || i == seed.y * width + seed.x) return false;
            const int left = first_position(i % width - 1, factor),
                      top = first_position(i / width - 1, factor);
            return mine.yields_to(value, left > 0 ? left : 0, top > 0 ? top : 0);
        };
        block_.for_each_chosen(count, reaches, side * side, [&](int i, int j) {
            consider(first_position(i % width - 1, factor) + j % side,
                     first_position(i / width - 1, factor) + j / side, mine);
        });
        return block_.best(mine);
    }

    LFPOSE_HD LFPOSE_INLINE double towards(const Peak& peak, int dx, int dy) const {
        const float difference = upsampled_at(map_, plan_.factor, peak.x + dx, peak.y + dy) -
                                 upsampled_at(map_, plan_.factor, peak.x - dx, peak.y - dy);
        return difference > 0.0F ? 0.25 : (difference < 0.0F ? -0.25 : 0.0);
    }

    LFPOSE_HD LFPOSE_INLINE void quarter(const Peak& peak, double& dx, double& dy) const {
        if (peak.x > 0 && peak.x < map_.width * plan_.factor - 1) dx = towards(peak, 1, 0);
        if (peak.y > 0 && peak.y < map_.height * plan_.factor - 1) dy = towards(peak, 0, 1);
    }

    LFPOSE_HD LFPOSE_INLINE void dark(const Peak& peak, double& dx, double& dy) const {
        const BlurPlan& blur = plan_.blur;
        const int span = blur.span(), taps = 2 * blur.radius + 1;
        float* window = memory_.window;
        double* sums = memory_.sums;
        double* blurred = sums + 3 * span;
        block_.for_each(span * span, [&](int i) {
            const int x = peak.x + (i % span - blur.reach) * blur.step;
            const int y = peak.y + (i / span - blur.reach) * blur.step;
            window[i] = 1.0F / (1.0F + expf(-upsampled_at(map_, plan_.factor, x, y)));
        });
        block_.for_each(3 * span, [&](int i) {
            const float* column = window + i / span * blur.per_cell * span + i % span;
            double sum = 0.0;
            for (int tap = 0; tap < taps; ++tap)
                sum += blur.gauss[tap] * static_cast<double>(column[tap * span]);
            sums[i] = sum;
        });
        block_.for_each(9, [&](int i) {
            const double* row = sums + i / 3 * span + i % 3 * blur.per_cell;
            double sum = 0.0;
            for (int tap = 0; tap < taps; ++tap) sum += blur.gauss[tap] * row[tap];
            blurred[i] = sum;
        });
        if (!block_.leads()) return;  // only these threads write the joint, and FP64 is slow on most GPUs
        const Offset offset = newton_step(blurred, plan_.factor);
        dx = offset.x;
        dy = offset.y;
    }

    LFPOSE_HD LFPOSE_INLINE void softargmax(const Peak& peak, double& dx, double& dy) const {
        const int factor = plan_.factor, radius = plan_.window * factor;
        const int left = peak.x - radius, top = peak.y - radius, side = 2 * radius + 1;
        double mass = 0.0, x_moment = 0.0, y_moment = 0.0;
        block_.for_each(side * side, [&](int i) {
            const int x = left + i % side, y = top + i / side;
            if (x < 0 || y < 0 || x >= map_.width * factor || y >= map_.height * factor) return;
            const double weight = static_cast<double>(expf(upsampled_at(map_, factor, x, y) - peak.value));
            mass += weight;
            x_moment += weight * (x - peak.x);
            y_moment += weight * (y - peak.y);
        });
        block_.sum(mass, x_moment, y_moment);
        dx = x_moment / mass;
        dy = y_moment / mass;
    }

    Block& block_;
    const BlockPlan& plan_;
    const BlockMemory& memory_;
    const MapView map_;  // of samples that are already sanitised
};

}  // namespace lfpose
