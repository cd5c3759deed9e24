#include "lfpose/decode.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <vector>

#include "lfpose/fastmath.hpp"
#include "lfpose/upsample.hpp"

namespace lfpose {
namespace {

constexpr float kLogitLimit = 1e4F;
constexpr double kDarkFloor = 1e-10, kDarkCurvature = 1e-2, kDarkDeterminant = 1e-4;

// The value's bits without its sign: larger for larger magnitudes, infinity and NaN on top. The compiler of
// this file may assume that comparisons of floats see finite numbers, so others are told by their bits.
LFPOSE_INLINE std::int32_t magnitude_bits(float value) {
    std::int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits & 0x7fffffff;
}

LFPOSE_INLINE float sanitized(float value) {
    const std::int32_t magnitude = magnitude_bits(value);
    if (magnitude <= magnitude_bits(kLogitLimit)) return value;
    std::int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const bool is_nan = magnitude > 0x7f800000;
    return is_nan || bits < 0 ? -kLogitLimit : kLogitLimit;
}

constexpr int kBlock = 8;  // rows

// Asks for cells that will be read soon; they need not exist.
LFPOSE_INLINE void prefetch(const float* cells, int count) {
#ifdef __GNUC__
    constexpr int kLine = 64 / static_cast<int>(sizeof(float));
    for (int i = 0; i < count; i += kLine) __builtin_prefetch(cells + i);
#else
    (void)cells, (void)count;
#endif
}

// The maximum of every block of rows, and whether all values are in range. Fewer and longer reductions than
// one a row: this pass over the map is most of a decode.
LFPOSE_CLONES bool block_maxima(const float* LFPOSE_RESTRICT map, int height, int width,
                                float* LFPOSE_RESTRICT maxima) {
    std::int32_t magnitude = 0;
    for (int y = 0; y < height; y += kBlock) {
        const float* rows[kBlock];
        for (int r = 0; r < kBlock; ++r)
            rows[r] = map + static_cast<std::ptrdiff_t>(std::min(y + r, height - 1)) * width;
        prefetch(rows[0] + static_cast<std::ptrdiff_t>(height) * width, kBlock * width);
        float largest = rows[0][0];
        for (int x = 0; x < width; ++x) {
            for (int r = 0; r < kBlock; ++r) {
                const float value = rows[r][x];
                largest = value > largest ? value : largest;
                const std::int32_t bits = magnitude_bits(value);
                magnitude = bits > magnitude ? bits : magnitude;
            }
        }
        maxima[y / kBlock] = largest;
    }
    return magnitude <= magnitude_bits(kLogitLimit);
}

// Whether any of two rows' cells is at least as large as a value.
LFPOSE_CLONES bool any_reaches(const float* upper, const float* lower, int width, float value) {
    int found = 0;
    for (int x = 0; x < width; ++x) found |= (upper[x] >= value ? 1 : 0) | (lower[x] >= value ? 1 : 0);
    return found != 0;
}

// Half the sum of a map and its mirrored twin, both sanitised.
LFPOSE_CLONES void average_flipped(const float* LFPOSE_RESTRICT map, const float* LFPOSE_RESTRICT flipped,
                                   int height, int width, float* LFPOSE_RESTRICT out) {
    for (int y = 0; y < height; ++y) {
        const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(y) * width;
        for (int x = 0; x < width; ++x) {
            out[row + x] = 0.5F * (sanitized(map[row + x]) + sanitized(flipped[row + width - 1 - x]));
        }
    }
}

LFPOSE_CLONES void to_probabilities(float* LFPOSE_RESTRICT values, int count) {
    for (int i = 0; i < count; ++i) values[i] = logistic(values[i]);
}

LFPOSE_CLONES void weigh_row(const float* LFPOSE_RESTRICT a, const float* LFPOSE_RESTRICT b, float w,
                             float peak, int count, float* LFPOSE_RESTRICT weights) {
    for (int i = 0; i < count; ++i) weights[i] = exp_negative(lerp(a[i], b[i], w) - peak);
}

struct Peak {
    float value;
    int x, y;  // upsampled position
};

// What all maps of a batch share.
struct Plan {
    DecodeSpec spec;
    int height, width;           // cells
    int up_height, up_width;     // upsampled positions
    std::vector<Tap> x, y;       // of every upsampled position
    std::vector<double> kernel;  // of the blur, 2 radius + 1
    int reach;                   // of dark's window, cells: the kernel's radius and one

    // The plan of the last call of this thread is kept: frame after frame, it is the same one.
    static const Plan& of(const DecodeSpec& spec, int height, int width) {
        static thread_local Plan plan(spec, height, width);
        if (!(plan.spec == spec) || plan.height != height || plan.width != width)
            plan = Plan(spec, height, width);
        return plan;
    }

    Plan(const DecodeSpec& s, int h, int w)
        : spec(s), height(h), width(w), up_height(h * s.upsample), up_width(w * s.upsample), reach(0) {
        for (int i = 0; i < up_width; ++i) x.push_back(Tap::at(i, width, s.upsample));
        for (int i = 0; i < up_height; ++i) y.push_back(Tap::at(i, height, s.upsample));
        if (s.method != Refinement::dark) return;
        const int radius = static_cast<int>(std::ceil(3 * s.blur_sigma));
        reach = radius + 1;
        double mass = 0;
        for (int i = -radius; i <= radius; ++i) {
            kernel.push_back(std::exp(-0.5 * (i / s.blur_sigma) * (i / s.blur_sigma)));
            mass += kernel.back();
        }
        for (double& k : kernel) k /= mass;
    }
};

// Buffers of one thread, kept from map to map.
struct Scratch {
    std::vector<float> map, maxima, rows, weights;
};

class MapDecoder {
  public:
    MapDecoder(const Plan& plan, Scratch& scratch, const float* map)
        : plan_(plan), scratch_(scratch), map_(map) {
        scratch.maxima.resize(static_cast<std::size_t>((plan.height + kBlock - 1) / kBlock));
        if (!block_maxima(map, plan.height, plan.width, scratch.maxima.data())) {
            const std::ptrdiff_t size = static_cast<std::ptrdiff_t>(plan.height) * plan.width;
            scratch.map.resize(static_cast<std::size_t>(size));
            std::transform(map, map + size, scratch.map.begin(), sanitized);
            map_ = scratch.map.data();
            block_maxima(map_, plan.height, plan.width, scratch.maxima.data());
        }
    }

    // The first of the largest upsampled values, row by row.
    //
    // A value between four cells never exceeds the largest of them. So the neighbourhood of the largest cell
    // gives a bound that nearly all other places stay below, and these are passed over unseen.
    Peak find_peak() {
        const auto& maxima = scratch_.maxima;
        const auto top = std::max_element(maxima.begin(), maxima.end());
        const int block = static_cast<int>(top - maxima.begin()) * kBlock;
        int row = block;
        const float* cells = map_ + static_cast<std::ptrdiff_t>(block) * plan_.width;
        while (!any_reaches(cells, cells, plan_.width, *top)) {
            ++row;
            cells += plan_.width;
        }
        const int column = static_cast<int>(std::find(cells, cells + plan_.width, *top) - cells);
        best_ = {-2 * kLogitLimit, 0, 0};
        for (int qy = row; qy <= row + 1; ++qy) {
            for (int qx = column; qx <= column + 1; ++qx) search_quad(qx, qy);
        }
        // The quads above and below each row of a block that may hold a better one.
        int next = 0;
        for (int y = 0; y < plan_.height; y += kBlock) {
            if (!can_win(maxima[static_cast<std::size_t>(y / kBlock)], 0, first_y(y))) continue;
            const int last = std::min(y + kBlock, plan_.height);
            for (int qy = std::max(y, next); qy <= last; ++qy) search_quads(qy);
            next = last + 1;
        }
        return best_;
    }

    // The refined peak minus the peak, upsampled pixels.
    void refine(const Peak& peak, double& dx, double& dy) {
        dx = dy = 0;
        switch (plan_.spec.method) {
            case Refinement::none:
                return;
            case Refinement::quarter:
                return refine_quarter(peak, dx, dy);
            case Refinement::softargmax:
                return refine_softargmax(peak, dx, dy);
            case Refinement::dark:
                return refine_dark(peak, dx, dy);
        }
    }

  private:
    int first_x(int quad) const { return first_position(quad, plan_.width, plan_.spec.upsample); }
    int first_y(int quad) const { return first_position(quad, plan_.height, plan_.spec.upsample); }

    // Whether values up to `bound`, the first of them at (x, y), may hold a better or an earlier peak.
    bool can_win(float bound, int x, int y) const {
        if (bound != best_.value) return bound > best_.value;
        return y < best_.y || (y == best_.y && x < best_.x);
    }

    float value_at(int x, int y) const {
        const Tap tx = plan_.x[static_cast<std::size_t>(x)], ty = plan_.y[static_cast<std::size_t>(y)];
        const float* upper = map_ + static_cast<std::ptrdiff_t>(ty.lower) * plan_.width;
        const float* lower = map_ + static_cast<std::ptrdiff_t>(ty.upper) * plan_.width;
        return lerp(lerp(upper[tx.lower], upper[tx.upper], tx.weight),
                    lerp(lower[tx.lower], lower[tx.upper], tx.weight), ty.weight);
    }

    // All quads between two rows of cells.
    void search_quads(int qy) {
        const float* upper = map_ + static_cast<std::ptrdiff_t>(std::max(qy - 1, 0)) * plan_.width;
        const float* lower = map_ + static_cast<std::ptrdiff_t>(std::min(qy, plan_.height - 1)) * plan_.width;
        if (!any_reaches(upper, lower, plan_.width, best_.value)) return;
        int next = 0;  // first quad not searched yet
        for (int x = 0; x < plan_.width; ++x) {
            // A cell is a corner of the quads on both its sides.
            if (std::max(upper[x], lower[x]) < best_.value) continue;
            for (int qx = std::max(x, next); qx <= x + 1; ++qx) search_quad(qx, qy);
            next = x + 2;
        }
    }

    void search_quad(int qx, int qy) {
        const int x0 = std::max(qx - 1, 0), x1 = std::min(qx, plan_.width - 1);
        const int y0 = std::max(qy - 1, 0), y1 = std::min(qy, plan_.height - 1);
        const float* upper = map_ + static_cast<std::ptrdiff_t>(y0) * plan_.width;
        const float* lower = map_ + static_cast<std::ptrdiff_t>(y1) * plan_.width;
        const float a = upper[x0], b = upper[x1], c = lower[x0], d = lower[x1];
        const float bound = std::max(std::max(a, b), std::max(c, d));
        const int first = first_x(qx), last = first_x(qx + 1);
        if (!can_win(bound, first, first_y(qy))) return;
        for (int y = first_y(qy), end = first_y(qy + 1); y < end; ++y) {
            const float wy = plan_.y[static_cast<std::size_t>(y)].weight;
            for (int x = first; x < last; ++x) {
                const float wx = plan_.x[static_cast<std::size_t>(x)].weight;
                const float value = lerp(lerp(a, b, wx), lerp(c, d, wx), wy);
                if (can_win(value, x, y)) best_ = {value, x, y};
            }
        }
    }

    void refine_quarter(const Peak& peak, double& dx, double& dy) const {
        auto step = [](float before, float after) {
            return after > before ? 0.25 : after < before ? -0.25 : 0.0;
        };
        const int x = peak.x, y = peak.y;
        if (x > 0 && x < plan_.up_width - 1) dx = step(value_at(x - 1, y), value_at(x + 1, y));
        if (y > 0 && y < plan_.up_height - 1) dy = step(value_at(x, y - 1), value_at(x, y + 1));
    }

    // Rows of cells [first, last] sampled along x at the positions x0, x0 + 1, ..., kept inside the map.
    const float* sample_along_x(int first, int last, int x0, int count) {
        scratch_.rows.resize(static_cast<std::size_t>(last - first + 1) * static_cast<std::size_t>(count));
        float* out = scratch_.rows.data();
        for (int row = first; row <= last; ++row) {
            const float* cells = map_ + static_cast<std::ptrdiff_t>(row) * plan_.width;
            for (int i = 0; i < count; ++i) {
                const Tap& tap = plan_.x[static_cast<std::size_t>(std::clamp(x0 + i, 0, plan_.up_width - 1))];
                *out++ = lerp(cells[tap.lower], cells[tap.upper], tap.weight);
            }
        }
        return scratch_.rows.data();
    }

    const Tap& tap_y(int y) const {
        return plan_.y[static_cast<std::size_t>(std::clamp(y, 0, plan_.up_height - 1))];
    }

    void refine_softargmax(const Peak& peak, double& dx, double& dy) {
        const int radius = plan_.spec.window * plan_.spec.upsample;
        const int x0 = std::max(0, peak.x - radius), x1 = std::min(plan_.up_width - 1, peak.x + radius);
        const int y0 = std::max(0, peak.y - radius), y1 = std::min(plan_.up_height - 1, peak.y + radius);
        const int count = x1 - x0 + 1, first = tap_y(y0).lower;
        const float* rows = sample_along_x(first, tap_y(y1).upper, x0, count);
        scratch_.weights.resize(static_cast<std::size_t>(count));
        const float* weights = scratch_.weights.data();
        double mass = 0, sum_x = 0, sum_y = 0;
        for (int y = y0; y <= y1; ++y) {
            const Tap& tap = tap_y(y);
            weigh_row(rows + static_cast<std::ptrdiff_t>(tap.lower - first) * count,
                      rows + static_cast<std::ptrdiff_t>(tap.upper - first) * count, tap.weight, peak.value,
                      count, scratch_.weights.data());
            double row_mass = 0;
            for (int i = 0; i < count; ++i) {
                row_mass += static_cast<double>(weights[i]);
                sum_x += static_cast<double>(weights[i]) * (x0 + i - peak.x);
            }
            mass += row_mass;
            sum_y += row_mass * (y - peak.y);
        }
        dx = sum_x / mass;
        dy = sum_y / mass;
    }

    // One Newton step on the logarithm of the blurred probabilities, sampled one cell apart around the peak.
    void refine_dark(const Peak& peak, double& dx, double& dy) {
        const int reach = plan_.reach, count = 2 * reach + 1, cell = plan_.spec.upsample;
        scratch_.weights.resize(static_cast<std::size_t>(count) * static_cast<std::size_t>(count));
        float* values = scratch_.weights.data();
        for (int i = 0; i < count; ++i) {
            const int y = std::clamp(peak.y + (i - reach) * cell, 0, plan_.up_height - 1);
            for (int j = 0; j < count; ++j) {
                values[i * count + j] =
                    value_at(std::clamp(peak.x + (j - reach) * cell, 0, plan_.up_width - 1), y);
            }
        }
        to_probabilities(values, count * count);

        // The blur along x at three points of every row, then along y at three points.
        const double* kernel = plan_.kernel.data();  // 2 reach - 1 weights
        double log[3][3] = {};                       // y by x
        for (int i = 0; i < count; ++i) {
            double along_x[3] = {0, 0, 0};
            for (int j = 0; j < count - 2; ++j) {
                for (int arm = 0; arm < 3; ++arm) {
                    along_x[arm] += kernel[j] * static_cast<double>(values[i * count + j + arm]);
                }
            }
            for (int arm = 0; arm < 3; ++arm) {
                const int tap = i - arm;
                const double weight = tap < 0 || tap >= count - 2 ? 0.0 : kernel[tap];
                for (int b = 0; b < 3; ++b) log[arm][b] += weight * along_x[b];
            }
        }
        for (auto& row : log) {
            for (double& value : row) value = std::log(std::max(value, kDarkFloor));
        }
        const double gx = (log[1][2] - log[1][0]) / 2, gy = (log[2][1] - log[0][1]) / 2;
        const double xx = log[1][2] - 2 * log[1][1] + log[1][0], yy = log[2][1] - 2 * log[1][1] + log[0][1];
        const double xy = (log[2][2] - log[2][0] - log[0][2] + log[0][0]) / 4;
        const double determinant = xx * yy - xy * xy;
        if (xx >= -kDarkCurvature || yy >= -kDarkCurvature || determinant <= kDarkDeterminant) return;
        dx = std::clamp(-(yy * gx - xy * gy) / determinant, -1.0, 1.0) * cell;
        dy = std::clamp(-(xx * gy - xy * gx) / determinant, -1.0, 1.0) * cell;
    }

    const Plan& plan_;
    Scratch& scratch_;
    const float* map_;
    Peak best_{};
};

double logistic_exact(float logit) {
    const double x = static_cast<double>(logit), small = std::exp(-std::abs(x));
    return (x >= 0 ? 1.0 : small) / (1.0 + small);
}

void decode_one(const CamBatch& batch, const Plan& plan, Scratch& scratch, std::ptrdiff_t index,
                const Joints& out) {
    const std::ptrdiff_t person = index / batch.k, joint = index % batch.k;
    const std::ptrdiff_t size = static_cast<std::ptrdiff_t>(batch.height) * batch.width;
    const float* map = batch.cams + index * size;
    if (batch.flipped != nullptr) {
        const float* flipped = batch.flipped + (person * batch.k + batch.permutation[joint]) * size;
        scratch.map.resize(static_cast<std::size_t>(size));
        average_flipped(map, flipped, batch.height, batch.width, scratch.map.data());
        map = scratch.map.data();
    }
    MapDecoder decoder(plan, scratch, map);
    const Peak peak = decoder.find_peak();
    double dx, dy;
    decoder.refine(peak, dx, dy);

    const double cell = plan.spec.stride / plan.spec.upsample;
    const double x = std::clamp((peak.x + 0.5 + dx) * cell, 0.0, batch.width * plan.spec.stride);
    const double y = std::clamp((peak.y + 0.5 + dy) * cell, 0.0, batch.height * plan.spec.stride);
    const Affine affine = Affine::from(batch.affines + 6 * person);
    out.keypoints[2 * index] = static_cast<float>(affine.x(x, y));
    out.keypoints[2 * index + 1] = static_cast<float>(affine.y(x, y));
    out.scores[index] = static_cast<float>(logistic_exact(peak.value));
    out.presence[index] = static_cast<float>(logistic_exact(sanitized(batch.presence[index])));
}

}  // namespace

void decode(const CamBatch& batch, const DecodeSpec& spec, const Joints& out, int threads) {
    const std::ptrdiff_t count = static_cast<std::ptrdiff_t>(batch.n) * batch.k;
    if (count == 0) return;
    const Plan& plan = Plan::of(spec, batch.height, batch.width);
    // Below this a team of threads costs more than it saves: a map takes a microsecond or two.
    constexpr std::ptrdiff_t kMapsPerThread = 16;
    const int team = static_cast<int>(std::min<std::ptrdiff_t>(threads, count / kMapsPerThread));
    if (team <= 1) {
        static thread_local Scratch scratch;
        for (std::ptrdiff_t i = 0; i < count; ++i) decode_one(batch, plan, scratch, i, out);
        return;
    }
#pragma omp parallel num_threads(team)
    {
        Scratch scratch;
#pragma omp for schedule(static)
        for (std::ptrdiff_t i = 0; i < count; ++i) decode_one(batch, plan, scratch, i, out);
    }
}

LFPOSE_CLONES float largest(const float* values, std::int64_t count) {
    float result = count > 0 ? values[0] : 0.0F;
    for (std::int64_t i = 0; i < count; ++i) result = values[i] > result ? values[i] : result;
    return result;
}

}  // namespace lfpose
