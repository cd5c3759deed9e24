#include "lfpose/decode.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "lfpose/joint.hpp"
#include "lfpose/peak.hpp"
#include "lfpose/refine.hpp"
#include "lfpose/team.hpp"

namespace lfpose {
namespace {

// Buffers of one thread, reused from call to call.
struct Scratch {
    std::vector<float> average;
    PeakScratch peak;
    WindowScratch window;
};

// The mean of a map and of the mirrored crop's map, mirrored back.
LFPOSE_CLONES void average_flipped(const float* LFPOSE_RESTRICT map, const float* LFPOSE_RESTRICT mirrored,
                                   int height, int width, float* LFPOSE_RESTRICT out) {
    for (int y = 0; y < height; ++y) {
        const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(y) * width;
        for (int x = 0; x < width; ++x) {
            out[row + x] = 0.5F * (sanitize(map[row + x]) + sanitize(mirrored[row + width - 1 - x]));
        }
    }
}

Offset quarter_offset(const MapView& map, int factor, const Peak& peak) {
    const auto towards = [&](int dx, int dy) {
        const float difference = upsampled_at(map, factor, peak.x + dx, peak.y + dy) -
                                 upsampled_at(map, factor, peak.x - dx, peak.y - dy);
        return difference > 0.0F ? 0.25 : (difference < 0.0F ? -0.25 : 0.0);
    };
    return {peak.x > 0 && peak.x < map.width * factor - 1 ? towards(1, 0) : 0.0,
            peak.y > 0 && peak.y < map.height * factor - 1 ? towards(0, 1) : 0.0};
}

// The tables of an upsampling factor and a blur. Each thread keeps those of its last call: they are the same
// from frame to frame, and making them takes as long as decoding several maps.
struct Tables {
    int upsample;
    double blur_sigma;
    CellWeights cells;
    SampleGrid every, for_blur;
    DarkKernel dark;

    explicit Tables(const DecodeSpec& spec)
        : upsample(spec.upsample),
          blur_sigma(spec.blur_sigma),
          cells(spec.upsample),
          every(spec.upsample, 1),
          for_blur(spec.upsample, blur_step(spec.upsample)),
          dark(spec.blur_sigma, for_blur.per_cell) {}

    static const Tables& of(const DecodeSpec& spec) {
        static thread_local Tables kept(spec);
        if (kept.upsample != spec.upsample || kept.blur_sigma != spec.blur_sigma) kept = Tables(spec);
        return kept;
    }
};

class Decoder {
  public:
    Decoder(const DecodeInput& input, const DecodeSpec& spec, const DecodeOutput& output)
        : input_(input),
          spec_(spec),
          output_(output),
          size_(static_cast<std::ptrdiff_t>(input.height) * input.width),
          tables_(Tables::of(spec)) {}

    std::ptrdiff_t maps() const { return static_cast<std::ptrdiff_t>(input_.crops) * input_.joints; }

    void decode_map(std::ptrdiff_t index, Scratch& scratch) const {
        const MapView map{averaged(index, scratch), input_.height, input_.width};
        ReadAhead ahead = after(index);
        const Peak peak = find_peak(map, tables_.cells, scratch.peak, ahead);
        const Offset offset = refine(map, peak, scratch.window, ahead);
        const int factor = spec_.upsample;
        const double x = crop_coordinate(peak.x, offset.x, spec_.stride, factor, map.width);
        const double y = crop_coordinate(peak.y, offset.y, spec_.stride, factor, map.height);
        write_joint(output_, input_.affines, input_.joints, input_.presence[index], index, peak, x, y);
    }

  private:
    const float* averaged(std::ptrdiff_t index, Scratch& scratch) const {
        const float* map = input_.cams + index * size_;
        if (input_.flipped == nullptr) return map;
        const std::ptrdiff_t joint = index % input_.joints;
        const std::ptrdiff_t mirrored = index - joint + input_.flip_permutation[joint];
        scratch.average.resize(static_cast<std::size_t>(size_));
        average_flipped(map, input_.flipped + mirrored * size_, input_.height, input_.width,
                        scratch.average.data());
        return scratch.average.data();
    }

    ReadAhead after(std::ptrdiff_t index) const {
        const bool more = index + 1 < maps();
        return {input_.cams + (more ? index + 1 : index) * size_, more ? size_ : 0};
    }

    Offset refine(const MapView& map, const Peak& peak, WindowScratch& scratch, ReadAhead& ahead) const {
        const int factor = spec_.upsample;
        switch (spec_.method) {
            case Method::none:
                break;
            case Method::quarter:
                return quarter_offset(map, factor, peak);
            case Method::dark: {
                const int span = 2 * tables_.dark.reach + 1,
                          reach = tables_.dark.reach * tables_.for_blur.step;
                sample_window(map, tables_.for_blur, {peak.x - reach, peak.y - reach, span, span}, scratch,
                              ahead);
                return dark_offset(tables_.dark, factor, scratch, ahead);
            }
            case Method::softargmax: {
                const int radius = spec_.window * factor;
                const int x = std::max(0, peak.x - radius), y = std::max(0, peak.y - radius);
                const Window window{x, y, std::min(map.width * factor, peak.x + radius + 1) - x,
                                    std::min(map.height * factor, peak.y + radius + 1) - y};
                sample_window(map, tables_.every, window, scratch, ahead);
                return softargmax_offset(window, peak, scratch);
            }
        }
        return {0.0, 0.0};
    }

    const DecodeInput& input_;
    const DecodeSpec& spec_;
    const DecodeOutput& output_;
    const std::ptrdiff_t size_;
    const Tables& tables_;
};

}  // namespace

void decode(const DecodeInput& input, const DecodeSpec& spec, const DecodeOutput& output, int threads) {
    const Decoder decoder(input, spec, output);
    const std::ptrdiff_t maps = decoder.maps();
    // A map takes a microsecond or two, and waking a thread several, so each thread gets about a person's
    // maps or more.
    constexpr int kMapsPerThread = 16;
    const int team = team_size(std::min<std::ptrdiff_t>(threads, maps / kMapsPerThread));
    share(maps, team, kMapsPerThread, [&](std::ptrdiff_t i) {
        static thread_local Scratch scratch;
        decoder.decode_map(i, scratch);
    });
}

}  // namespace lfpose
