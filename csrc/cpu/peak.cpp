// Bilinear interpolation never exceeds the largest of its four samples, not even by rounding (its weights are
// at most 1 - 1 / (2 factor)). An interpolation cell whose samples are all below the best value found so far
// therefore cannot hold the maximum. Almost every cell is like that, so the search costs little more than
// reading the map.
#include "lfpose/peak.hpp"

#include <algorithm>
#include <cstddef>

namespace lfpose {
namespace {

constexpr int kBand = 4;  // rows that share one bound

template <int Part>
LFPOSE_INLINE void fold_row(const float* row, int width, Lanes<Part>& kept) {
    Lanes<Part> value;
    if (width < kLanes) {
        float padded[kLanes];
        std::fill(padded, padded + kLanes, -kLogitLimit);
        std::copy(row, row + width, padded);
        load(value, padded);
        keep_larger(kept, value);
        return;
    }
    for (int x = 0; x + kLanes <= width; x += kLanes) {
        load(value, row + x);
        keep_larger(kept, value);
    }
    if (width % kLanes != 0) {
        load(value, row + width - kLanes);
        keep_larger(kept, value);
    }
}

template <int Part>
LFPOSE_INLINE float bounded(const Lanes<Part>& kept) {
    return std::min(largest(kept), kLogitLimit);
}

template <int Part>
LFPOSE_INLINE float row_max(const MapView& map, int y) {
    Lanes<Part> kept;
    fill(kept, -kLogitLimit);
    fold_row(map.data + static_cast<std::ptrdiff_t>(y) * map.width, map.width, kept);
    return bounded(kept);
}

template <int Part>
class Search {
  public:
    LFPOSE_INLINE Search(const MapView& map, const CellWeights& weights, PeakScratch& scratch)
        : map_(map), weights_(weights), scratch_(scratch), factor_(weights.factor) {}

    LFPOSE_INLINE Peak run(ReadAhead& read_ahead) {
        ReadAhead ahead = read_ahead;  // a local copy, to stay in registers

        const int bands = (map_.height + kBand - 1) / kBand;
        scratch_.band_max.resize(static_cast<std::size_t>(bands));
        scratch_.values.resize(static_cast<std::size_t>(weights_.chunks) * kLanes);
        float* band_max = scratch_.band_max.data();
        float top = -kLogitLimit;
        for (int band = 0; band < bands; ++band) {
            Lanes<Part> kept;
            fill(kept, -kLogitLimit);
            const int last = std::min((band + 1) * kBand, map_.height);
            for (int y = band * kBand; y < last; ++y) {
                fold_row(map_.data + static_cast<std::ptrdiff_t>(y) * map_.width, map_.width, kept);
                ahead.step();
            }
            band_max[band] = bounded(kept);
            top = std::max(top, band_max[band]);
        }
        read_ahead = ahead;

        int seed_y = 0;
        for (int band = 0; band_max[band] != top; ++band) seed_y += kBand;
        while (row_max<Part>(map_, seed_y) != top) ++seed_y;
        int seed_x = 0;
        if (top > -kLogitLimit) {  // otherwise every sample counts as -kLogitLimit, NaN too
            for_each_reaching(seed_y, top, [&](int x) {
                seed_x = x;
                return false;
            });
        }
        if (factor_ == 1) return {seed_x, seed_y, top};

        // Around the largest sample the bound is nearly tight, so few other cells are left after its own.
        best_ = {map_.width * factor_, map_.height * factor_, -2 * kLogitLimit};
        visit_around(seed_x, seed_y);
        for (int band = 0; band < bands; ++band) {
            if (hopeless(band_max[band], 0, first_position(band * kBand - 1, factor_))) continue;
            const int last = std::min((band + 1) * kBand, map_.height);
            for (int y = band * kBand; y < last; ++y) {
                const int first = first_position(y - 1, factor_);
                if (!hopeless(row_max<Part>(map_, y), 0, first)) visit_row(y, seed_x, seed_y);
            }
        }
        return best_;
    }

  private:
    // Whether no position from (x, y) on, in row-major order, can be the peak, given an upper bound of the
    // values there.
    LFPOSE_INLINE bool hopeless(float bound, int x, int y) const {
        return !best_.yields_to(bound, std::max(x, 0), std::max(y, 0));
    }

    // Calls visit(x) for the samples of row y that reach a bound, until it returns false.
    template <typename Visit>
    LFPOSE_INLINE void for_each_reaching(int y, const float& bound, Visit visit) const {
        const float* row = map_.data + static_cast<std::ptrdiff_t>(y) * map_.width;
        for (int start = 0; start < map_.width; start += kLanes) {
            const int end = std::min(start + kLanes, map_.width);
            if (end == start + kLanes) {
                Lanes<Part> kept, value;
                fill(kept, -kLogitLimit);
                load(value, row + start);
                keep_larger(kept, value);
                if (largest(kept) < bound) continue;
            }
            for (int x = start; x < end; ++x) {
                if (sanitize(row[x]) >= bound && !visit(x)) return;
            }
        }
    }

    // Visits the cells around every sample of row y that reaches the best value, except the seed.
    LFPOSE_INLINE void visit_row(int y, int seed_x, int seed_y) {
        for_each_reaching(y, best_.value, [&](int x) {
            if (x != seed_x || y != seed_y) visit_around(x, y);
            return true;
        });
    }

    // Visits the four cells that touch a sample. Those already visited from earlier samples are soon
    // rejected.
    LFPOSE_INLINE void visit_around(int x, int y) {
        float corners[3][3];
        for (int i = 0; i < 3; ++i) {
            for (int j = 0; j < 3; ++j) corners[i][j] = map_.at(y + i - 1, x + j - 1);
        }
        for (int i = 0; i < 2; ++i) {
            for (int j = 0; j < 2; ++j) {
                visit_cell(x + j - 1, y + i - 1, corners[i][j], corners[i][j + 1], corners[i + 1][j],
                           corners[i + 1][j + 1]);
            }
        }
    }

    LFPOSE_INLINE void visit_cell(int cx, int cy, float a, float b, float c, float d) {
        const int x0 = first_position(cx, factor_), y0 = first_position(cy, factor_);
        if (hopeless(std::max(std::max(a, b), std::max(c, d)), x0, y0)) return;
        Lanes<Part> upper_left, upper_right, lower_left, lower_right, kept;
        fill(upper_left, a);
        fill(upper_right, b);
        fill(lower_left, c);
        fill(lower_right, d);
        fill(kept, -kLogitLimit);
        float* values = scratch_.values.data();
        for (int chunk = 0; chunk < weights_.chunks; ++chunk) {
            Lanes<Part> wx, wy, top, bottom, value;
            load(wx, weights_.x.data() + chunk * kLanes);
            load(wy, weights_.y.data() + chunk * kLanes);
            lerp(top, upper_left, upper_right, wx);
            lerp(bottom, lower_left, lower_right, wx);
            lerp(value, top, bottom, wy);
            store(values + chunk * kLanes, value);
            keep_larger(kept, value);
        }
        const float bound = largest(kept);
        if (!hopeless(bound, x0, y0)) update(values, bound, x0, y0);
    }

    // A border cell extends beyond the map, where its values repeat those of the positions inside.
    LFPOSE_INLINE void update(const float* values, float bound, int x0, int y0) {
        const int x_begin = std::max(0, -x0), x_end = std::min(factor_, map_.width * factor_ - x0);
        const int y_begin = std::max(0, -y0), y_end = std::min(factor_, map_.height * factor_ - y0);
        for (int i = y_begin; i < y_end; ++i) {
            for (int j = x_begin; j < x_end; ++j) {
                if (values[i * factor_ + j] == bound) {
                    if (best_.yields_to(bound, x0 + j, y0 + i)) best_ = {x0 + j, y0 + i, bound};
                    return;
                }
            }
        }
    }

    const MapView& map_;
    const CellWeights& weights_;
    PeakScratch& scratch_;
    const int factor_;
    Peak best_{0, 0, 0.0F};
};

template <int Part>
LFPOSE_INLINE float fold(const float* data, std::size_t count) {
    Lanes<Part> kept[4], value;
    for (auto& k : kept) fill(k, -kLogitLimit);
    std::size_t i = 0;
    for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
        for (int part = 0; part < 4; ++part) {
            load(value, data + i + part * kLanes);
            keep_larger(kept[part], value);
        }
    }
    for (int part = 1; part < 4; ++part) keep_larger(kept[0], kept[part]);
    float best = largest(kept[0]);
    for (; i < count; ++i) best = data[i] > best ? data[i] : best;
    return best;
}

LFPOSE_BY_WIDTH(Peak searched(const MapView& map, const CellWeights& weights, PeakScratch& scratch,
                              ReadAhead& ahead),
                return Search<kPart>(map, weights, scratch).run(ahead);)

LFPOSE_BY_WIDTH(float folded(const float* data, std::size_t count), return fold<kPart>(data, count);)

}  // namespace

CellWeights::CellWeights(int factor)
    : factor(factor),
      chunks((factor * factor + kLanes - 1) / kLanes),
      x(static_cast<std::size_t>(chunks) * kLanes, weight_in_cell(0, factor)),
      y(x) {
    for (int i = 0; i < factor * factor; ++i) {
        x[static_cast<std::size_t>(i)] = weight_in_cell(i % factor, factor);
        y[static_cast<std::size_t>(i)] = weight_in_cell(i / factor, factor);
    }
}

Peak find_peak(const MapView& map, const CellWeights& weights, PeakScratch& scratch, ReadAhead& ahead) {
    return searched(map, weights, scratch, ahead);
}

float read_once(const float* data, std::size_t count) { return folded(data, count); }

}  // namespace lfpose
