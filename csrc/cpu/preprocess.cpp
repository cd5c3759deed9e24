#include "lfpose/preprocess.hpp"

#include <algorithm>

#include "lfpose/team.hpp"

namespace lfpose {

template <typename Out>
void preprocess(const ImageView& image, const double* affines, std::ptrdiff_t n, const PreprocessSpec& spec,
                Out* out, int threads) {
    const std::ptrdiff_t crop_size = std::ptrdiff_t{3} * spec.height * spec.width;
    const auto crop = [&](std::ptrdiff_t i, PreprocessScratch& scratch) {
        const Affine affine = Affine::from(affines + 6 * i);
        const auto sample = affine.axis_aligned() ? crop_axis_aligned<Out> : crop_general<Out>;
        sample(image, affine, spec, scratch, out + i * crop_size);
    };
    const int team = team_size(std::min<std::ptrdiff_t>(threads, n));
    if (team == 1) {
        static thread_local PreprocessScratch scratch;
        for (std::ptrdiff_t i = 0; i < n; ++i) crop(i, scratch);
        return;
    }
#ifdef _OPENMP
#pragma omp parallel num_threads(team)
#endif
    {
        PreprocessScratch scratch;
#ifdef _OPENMP
#pragma omp for schedule(dynamic)
#endif
        for (std::ptrdiff_t i = 0; i < n; ++i) crop(i, scratch);
    }
}

template void preprocess<float>(const ImageView&, const double*, std::ptrdiff_t, const PreprocessSpec&,
                                float*, int);
template void preprocess<std::uint8_t>(const ImageView&, const double*, std::ptrdiff_t, const PreprocessSpec&,
                                       std::uint8_t*, int);

}  // namespace lfpose
