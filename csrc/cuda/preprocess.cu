#include <cuda_fp16.h>

#include "lfpose/gpu_preprocess.hpp"

namespace lfpose::cuda {
namespace {

constexpr int kColumns = 16, kRows = 8;  // threads per block
constexpr int kPixels = 4;               // adjacent pixels per thread

__device__ __forceinline__ void finish(float value, float scale, float bias, float& out) {
    out = value * scale + bias;
}

__device__ __forceinline__ void finish(float value, float scale, float bias, __half& out) {
    out = __float2half_rn(value * scale + bias);
}

__device__ __forceinline__ void finish(float value, float scale, float bias, std::int8_t& out) {
    const int rounded = __float2int_rn(value * scale + bias);
    out = static_cast<std::int8_t>(min(max(rounded, -128), 127));
}

// The pixels that a thread writes to one channel, as one store.
template <typename Out>
struct alignas(kPixels * sizeof(Out)) Quad {
    Out pixel[kPixels];
};

template <typename Image, typename Out>
__global__ void __launch_bounds__(kColumns* kRows, 8)
    preprocess_kernel(const __grid_constant__ Image image, const CropPlan* __restrict__ plans,
                      const __grid_constant__ PreprocessSpec spec, bool whole_quads, Out* __restrict__ out) {
    const int column = static_cast<int>(blockIdx.x * kColumns + threadIdx.x) * kPixels;
    const int row = static_cast<int>(blockIdx.y * kRows + threadIdx.y);
    if (column >= spec.width || row >= spec.height) return;
    const CropPlan plan = plans[blockIdx.z];
    const std::int64_t plane = static_cast<std::int64_t>(spec.height) * spec.width;
    Out* first = out + blockIdx.z * 3 * plane + static_cast<std::int64_t>(row) * spec.width + column;

    Quad<Out> quads[3];
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
        float values[3];
        sample_point(image, x_point(plan, column + i, row, image.width),
                     y_point(plan, column + i, row, image.height), spec.border, values);
#pragma unroll
        for (int c = 0; c < 3; ++c) {
            const float value = spec.swap_rb ? values[2 - c] : values[c];
            finish(value, spec.scale[c], spec.bias[c], quads[c].pixel[i]);
        }
    }
    if (whole_quads) {
#pragma unroll
        for (int c = 0; c < 3; ++c) *reinterpret_cast<Quad<Out>*>(first + c * plane) = quads[c];
        return;
    }
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
        if (column + i >= spec.width) return;
#pragma unroll
        for (int c = 0; c < 3; ++c) first[c * plane + i] = quads[c].pixel[i];
    }
}

unsigned parts(int count, int size) { return static_cast<unsigned>((count + size - 1) / size); }

template <typename Out, typename Image>
cudaError_t launch(const Image& image, const CropPlan* plans, int n, const PreprocessSpec& spec, void* out,
                   cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    const dim3 grid(parts(spec.width, kColumns * kPixels), parts(spec.height, kRows),
                    static_cast<unsigned>(n));
    // If rows consist of whole quads, all of them are aligned for quads when the first one is.
    const bool whole_quads =
        spec.width % kPixels == 0 && reinterpret_cast<std::uintptr_t>(out) % sizeof(Quad<Out>) == 0;
    preprocess_kernel<Image, Out>
        <<<grid, dim3(kColumns, kRows), 0, stream>>>(image, plans, spec, whole_quads, static_cast<Out*>(out));
    return cudaGetLastError();
}

template <typename Image>
cudaError_t of_pixel(const Image& image, const CropPlan* plans, int n, const PreprocessSpec& spec,
                     Pixel pixel, void* out, cudaStream_t stream) {
    switch (pixel) {
        case Pixel::float32:
            return launch<float>(image, plans, n, spec, out, stream);
        case Pixel::float16:
            return launch<__half>(image, plans, n, spec, out, stream);
        case Pixel::int8:
            return launch<std::int8_t>(image, plans, n, spec, out, stream);
    }
    return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t preprocess(const PackedImage& image, const CropPlan* plans, int n, const PreprocessSpec& spec,
                       Pixel pixel, void* out, cudaStream_t stream) {
    return of_pixel(image, plans, n, spec, pixel, out, stream);
}

cudaError_t preprocess(const Nv12Image& image, const CropPlan* plans, int n, const PreprocessSpec& spec,
                       Pixel pixel, void* out, cudaStream_t stream) {
    return of_pixel(image, plans, n, spec, pixel, out, stream);
}

}  // namespace lfpose::cuda
