#include <array>
#include <cstdint>
#include <cstring>
#include <memory>

#include "arrays.hpp"
#include "device_array.hpp"
#include "lfpose/block_plan.hpp"
#include "lfpose/gpu_decode.hpp"
#include "lfpose/gpu_preprocess.hpp"
#include "method.hpp"

namespace lfpose::bind {
namespace {

using Shape = std::vector<py::ssize_t>;

constexpr const char* kOfAnother = " of another stream: take it over by DeviceArray.lent_by";

// Throws unless the array is packed, has this shape and one of the types that `expected` names, is aligned
// for what is read from it, and belongs to the stream. A kernel that accesses invalid memory would make CUDA
// unusable for the whole process.
void require_packed(const DeviceArray& array, const char* name, const Shape& shape, bool right_type,
                    const char* expected, const cuda::Stream& stream, std::size_t alignment = 0) {
    const std::size_t step = alignment == 0 ? static_cast<std::size_t>(array.type().itemsize()) : alignment;
    const bool aligned = reinterpret_cast<std::uintptr_t>(array.data()) % step == 0;
    if (right_type && aligned && array.shape() == shape && array.is_packed() && array.belongs_to(stream)) {
        return;
    }
    const std::string wanted = std::string(py::str(py::tuple(py::cast(shape))));
    std::string message = std::string(name) + " must be " + expected + " " + wanted +
                          ", C-contiguous and aligned, got " + array.describe();
    if (!array.belongs_to(stream)) message += kOfAnother;
    if (!right_type) throw py::type_error(message);
    throw py::value_error(message);
}

// A decode with one set of constants, whose tables are in a device's memory.
class GpuDecoder {
  public:
    GpuDecoder(double stride, int upsample, const std::string& method, double blur_sigma, int window,
               const std::shared_ptr<cuda::Stream>& stream)
        : spec_{stride, upsample, require_method(method), blur_sigma, window},
          host_weights_(blur_weights(spec_)),
          weights_(cuda::Buffer::on_device(host_weights_.size() * sizeof(double), stream->device())) {
        stream->copy(weights_.data(), host_weights_.data(), weights_.bytes());
        stream->synchronize();
    }

    void decode(const DeviceArray& cams, const DeviceArray& presence, const DeviceArray& affines,
                const DeviceArray& keypoints, const DeviceArray& scores, const DeviceArray& probabilities,
                const cuda::Stream& stream, const DeviceArray* flipped,
                const DeviceArray* flip_permutation) const {
        if (stream.device() != weights_.device()) {
            throw py::value_error("the decoder's tables are on cuda:" + std::to_string(weights_.device()) +
                                  ", the stream is of cuda:" + std::to_string(stream.device()));
        }
        const bool half = cams.holds_half();
        const auto as_cams = [&](const DeviceArray& a) { return half ? a.holds_half() : a.holds<float>(); };
        if (cams.shape().size() != 4) {
            throw py::value_error("cams must be (N, K, h, w), got " + cams.describe());
        }
        const py::ssize_t n = cams.shape()[0], k = cams.shape()[1], h = cams.shape()[2], w = cams.shape()[3];
        constexpr const char* kLogits = "float32 or float16, as cams,";
        require_packed(cams, "cams", cams.shape(), as_cams(cams), "float32 or float16", stream);
        require_packed(presence, "presence", {n, k}, as_cams(presence), kLogits, stream);
        require_packed(affines, "affines", {n, 2, 3}, affines.holds<double>(), "float64", stream);
        require_packed(keypoints, "keypoints", {n, k, 2}, keypoints.holds<float>(), "float32", stream);
        require_packed(scores, "scores", {n, k}, scores.holds<float>(), "float32", stream);
        require_packed(probabilities, "probabilities", {n, k}, probabilities.holds<float>(), "float32",
                       stream);
        if (flipped != nullptr) {
            require_packed(*flipped, "flipped", cams.shape(), as_cams(*flipped), kLogits, stream);
            if (flip_permutation == nullptr) throw py::value_error("flipped needs flip_permutation");
            require_packed(*flip_permutation, "flip_permutation", {k},
                           flip_permutation->holds<std::int32_t>(), "int32", stream);
        }
        if (h < 1 || w < 1)
            throw py::value_error("cams must be maps of at least 1 x 1, got " + cams.describe());
        const cuda::DecodeArrays arrays{
            static_cast<int>(n),
            static_cast<int>(k),
            static_cast<int>(h),
            static_cast<int>(w),
            cams.data(),
            flipped == nullptr ? nullptr : flipped->data(),
            flipped == nullptr ? nullptr : static_cast<const int*>(flip_permutation->data()),
            presence.data(),
            static_cast<const double*>(affines.data()),
            {static_cast<float*>(keypoints.data()), static_cast<float*>(scores.data()),
             static_cast<float*>(probabilities.data())}};
        const BlockPlan plan =
            block_plan(spec_, host_weights_, reinterpret_cast<const double*>(weights_.data()));
        const auto precision = half ? cuda::Precision::float16 : cuda::Precision::float32;
        const cuda::OnDevice current(weights_.device());
        const WithoutGil release;
        cuda::check(cuda::decode(arrays, plan, precision, stream.handle()), "decode");
    }

    // The shared memory of a block, in bytes, for maps of h x w cells.
    std::size_t shared_bytes(int h, int w) const {
        const auto* weights = reinterpret_cast<const double*>(weights_.data());
        return cuda::decode_shared_bytes(block_plan(spec_, host_weights_, weights), h, w);
    }

  private:
    DecodeSpec spec_;
    std::vector<double> host_weights_;
    cuda::Buffer weights_;
};

// (N, bytes) uint8 on the host: the CropPlans that preprocess_crops needs, to be uploaded.
py::array plan_crops(const py::object& affines, const std::pair<int, int>& size) {
    const auto matrices = require_affines(affines, -1);
    py::array_t<std::uint8_t> plans(Shape{matrices.shape(0), static_cast<py::ssize_t>(sizeof(CropPlan))});
    for (py::ssize_t i = 0; i < matrices.shape(0); ++i) {
        const CropPlan plan = crop_plan(Affine::from(matrices.data() + 6 * i), size.first, size.second);
        std::memcpy(plans.mutable_data(i, 0), &plan, sizeof plan);
    }
    return plans;
}

PreprocessSpec crop_spec(const DeviceArray& out, bool swap_rb, const py::object& mean, const py::object& std,
                         const py::object& border, double step) {
    PreprocessSpec spec{
        static_cast<int>(out.shape()[2]), static_cast<int>(out.shape()[3]), swap_rb, {}, {}, {}};
    const auto means = require_triple(mean, "mean"), stds = require_triple(std, "std");
    const auto borders = require_triple(border, "border");
    if (!(step > 0.0)) throw py::value_error("step must be positive");
    for (std::size_t c = 0; c < 3; ++c) {
        if (stds[c] == 0.0) throw py::value_error("std must not be zero, got " + std::string(py::repr(std)));
        spec.scale[c] = static_cast<float>(1.0 / (stds[c] * step));
        spec.bias[c] = static_cast<float>(-means[c] / (stds[c] * step));
        spec.border[c] = static_cast<float>(borders[c]);
    }
    return spec;
}

cuda::Pixel pixel_of(const DeviceArray& out) {
    if (out.holds<float>()) return cuda::Pixel::float32;
    if (out.holds_half()) return cuda::Pixel::float16;
    if (out.holds<std::int8_t>()) return cuda::Pixel::int8;
    throw py::type_error("out must be float32, float16 or int8, got " + out.describe());
}

// `layout` is "packed", for an (H, W) or (H, W, 1 | 3 | 4) image, or "nv12", for a (3 H / 2, W) one.
void preprocess_crops(const DeviceArray& image, const DeviceArray& plans, const DeviceArray& out,
                      bool swap_rb, const py::object& mean, const py::object& std, const py::object& border,
                      double step, const cuda::Stream& stream, const std::string& layout) {
    const int device = stream.device();
    if (out.shape().size() != 4 || out.shape()[1] != 3) {
        throw py::value_error("out must be (N, 3, h, w), got " + out.describe());
    }
    const py::ssize_t n = out.shape()[0];
    constexpr py::ssize_t kMostCrops = 65535;  // the maximum of a grid's third dimension
    if (out.shape()[2] < 1 || out.shape()[3] < 1 || n > kMostCrops) {
        throw py::value_error("out must be of at least 1 x 1 pixels and at most 65535 crops, got " +
                              out.describe());
    }
    require_packed(plans, "plans", {n, static_cast<py::ssize_t>(sizeof(CropPlan))},
                   plans.holds<std::uint8_t>(), "uint8, from plan_crops,", stream, alignof(CropPlan));
    const cuda::Pixel pixel = pixel_of(out);
    require_packed(out, "out", out.shape(), true, "an array", stream);
    const std::size_t axes = image.shape().size();
    const py::ssize_t channels = axes == 3 ? image.shape()[2] : 1;
    const bool shaped = (axes == 2 || axes == 3) && (channels == 1 || channels == 3 || channels == 4) &&
                        image.shape()[0] > 0 && image.shape()[1] > 0;
    const std::string problem =
        "image must be uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) on cuda:" + std::to_string(device) +
        " whose rows are packed, got " + image.describe();
    if (!image.holds<std::uint8_t>()) throw py::type_error(problem);
    if (!image.belongs_to(stream)) throw py::value_error(problem + kOfAnother);
    if (!shaped || !image.is_packed(1)) throw py::value_error(problem);
    const PreprocessSpec spec = crop_spec(out, swap_rb, mean, std, border, step);
    const auto* crops = static_cast<const CropPlan*>(plans.data());
    const auto* data = static_cast<const std::uint8_t*>(image.data());
    const int rows = static_cast<int>(image.shape()[0]), columns = static_cast<int>(image.shape()[1]);
    const std::int64_t pitch = image.stride_bytes(0);
    const cuda::OnDevice current(device);
    if (layout == "nv12") {
        if (channels != 1 || rows % 3 != 0 || columns % 2 != 0) {
            throw py::value_error("an NV12 frame is uint8 (3 H / 2, W) of even H and W, got " +
                                  image.describe());
        }
        const int height = rows / 3 * 2;
        const Nv12Image nv12{data, data + height * pitch, pitch, pitch, height, columns};
        cuda::check(
            cuda::preprocess(nv12, crops, static_cast<int>(n), spec, pixel, out.data(), stream.handle()),
            "preprocess");
        return;
    }
    if (layout != "packed") throw py::value_error("layout must be packed or nv12, got " + layout);
    const PackedImage packed{data, pitch, rows, columns, static_cast<int>(channels)};
    cuda::check(
        cuda::preprocess(packed, crops, static_cast<int>(n), spec, pixel, out.data(), stream.handle()),
        "preprocess");
}

}  // namespace

void register_gpu_kernels(py::module_& module) {
    struct Delete {
        void operator()(GpuDecoder* decoder) const {
            const WithoutGil release;  // freeing its tables waits for the device
            delete decoder;
        }
    };
    using Held = std::unique_ptr<GpuDecoder, Delete>;
    py::class_<GpuDecoder, Held>(module, "Decoder", "The decode of one set of constants.")
        .def(py::init<double, int, const std::string&, double, int, const std::shared_ptr<cuda::Stream>&>(),
             py::arg("stride"), py::arg("upsample"), py::arg("method"), py::arg("blur_sigma"),
             py::arg("window"), py::arg("stream").none(false), py::call_guard<WithoutGil>())
        .def("shared_bytes", &GpuDecoder::shared_bytes, py::arg("height"), py::arg("width"),
             "Shared memory that a block needs for maps of so many cells.")
        .def("decode", &GpuDecoder::decode, py::arg("cams"), py::arg("presence"), py::arg("affines"),
             py::arg("keypoints"), py::arg("scores"), py::arg("probabilities"), py::arg("stream"),
             py::arg("flipped") = nullptr, py::arg("flip_permutation") = nullptr);
    module.def("plan_crops", &plan_crops, py::arg("affines"), py::arg("size"));
    module.def("preprocess_crops", &preprocess_crops, py::arg("image"), py::arg("plans"), py::arg("out"),
               py::arg("swap_rb"), py::arg("mean"), py::arg("std"), py::arg("border"), py::arg("step"),
               py::arg("stream"), py::arg("layout") = "packed");
}

}  // namespace lfpose::bind
