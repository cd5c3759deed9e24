#include "lfpose/preprocess.hpp"

#include <algorithm>

#include "lfpose/team.hpp"

namespace lfpose {

template <typename Out>
void preprocess(const ImageView& image, const double* affines, std::ptrdiff_t n, const PreprocessSpec& spec,
                Out* out, int threads) {
    const std::ptrdiff_t crop_size = std::ptrdiff_t{3} * spec.height * spec.width;
    share(n, team_size(std::min<std::ptrdiff_t>(threads, n)), 1, [&](std::ptrdiff_t i) {
        static thread_local PreprocessScratch scratch;
        const Affine affine = Affine::from(affines + 6 * i);
        const auto sample = affine.axis_aligned() ? crop_axis_aligned<Out> : crop_general<Out>;
        sample(image, affine, spec, scratch, out + i * crop_size);
    });
}

template void preprocess<float>(const ImageView&, const double*, std::ptrdiff_t, const PreprocessSpec&,
                                float*, int);
template void preprocess<std::uint8_t>(const ImageView&, const double*, std::ptrdiff_t, const PreprocessSpec&,
                                       std::uint8_t*, int);

}  // namespace lfpose
