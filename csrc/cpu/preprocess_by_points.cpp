// The CUDA kernel's algorithm on the CPU, for its tests: one pixel at a time.
#include "lfpose/crop_point.hpp"

namespace lfpose {
namespace {

template <typename Image, typename Out>
void crops(const Image& image, const double* affines, std::ptrdiff_t n, const PreprocessSpec& spec,
           Out* out) {
    const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(spec.height) * spec.width;
    for (std::ptrdiff_t i = 0; i < n; ++i, out += 3 * plane) {
        const CropPlan plan = crop_plan(Affine::from(affines + 6 * i), spec.height, spec.width);
        for (std::ptrdiff_t at = 0; at < plane; ++at) {
            const int row = static_cast<int>(at / spec.width), column = static_cast<int>(at % spec.width);
            float values[3];
            sample_point(image, x_point(plan, column, row, image.width),
                         y_point(plan, column, row, image.height), spec.border, values);
            for (int c = 0; c < 3; ++c) {
                finish(values[spec.source_channel(c)], spec.scale[c], spec.bias[c],
                       out[c * spec.channel_step() + at * spec.pixel_step()]);
            }
        }
    }
}

}  // namespace

template <typename Out>
void preprocess_by_points(const ImageView& image, const double* affines, std::ptrdiff_t n,
                          const PreprocessSpec& spec, Out* out, int) {
    const PackedImage packed{image.data, image.row_bytes, image.height, image.width, image.channels};
    crops(packed, affines, n, spec, out);
}

template <typename Out>
void preprocess_nv12_by_points(const ImageView& image, const double* affines, std::ptrdiff_t n,
                               const PreprocessSpec& spec, Out* out, int) {
    const int height = image.height * 2 / 3;
    const Nv12Image nv12{image.data, image.row(height), image.row_bytes, image.row_bytes,
                         height,     image.width};
    crops(nv12, affines, n, spec, out);
}

template void preprocess_by_points<float>(const ImageView&, const double*, std::ptrdiff_t,
                                          const PreprocessSpec&, float*, int);
template void preprocess_by_points<std::uint8_t>(const ImageView&, const double*, std::ptrdiff_t,
                                                 const PreprocessSpec&, std::uint8_t*, int);
template void preprocess_nv12_by_points<float>(const ImageView&, const double*, std::ptrdiff_t,
                                               const PreprocessSpec&, float*, int);
template void preprocess_nv12_by_points<std::uint8_t>(const ImageView&, const double*, std::ptrdiff_t,
                                                      const PreprocessSpec&, std::uint8_t*, int);

}  // namespace lfpose
