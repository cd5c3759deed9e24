#include "arrays.hpp"
#include "lfpose/preprocess.hpp"

namespace lfpose::bind {
namespace {

constexpr py::ssize_t kMaxSide = 1 << 20;

// Rows may have any stride, as in a slice or a flipped view. The image is copied if the pixels of a row are
// not adjacent.
py::array as_image(const py::object& object, ImageView& view) {
    const auto message = [&] {
        return "image must be uint8 of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got " +
               describe(object);
    };
    if (!py::isinstance<py::array_t<std::uint8_t>>(object)) throw py::type_error(message());
    auto array = py::reinterpret_borrow<py::array>(object);
    const py::ssize_t channels = array.ndim() == 3 ? array.shape(2) : 1;
    if (array.ndim() < 2 || array.ndim() > 3 || (channels != 1 && channels != 3 && channels != 4)) {
        throw py::value_error(message());
    }
    for (int axis = 0; axis < 2; ++axis) {
        if (array.shape(axis) < 1 || array.shape(axis) > kMaxSide) {
            throw py::value_error(message() + "; a side must be in 1.." + std::to_string(kMaxSide));
        }
    }
    const bool adjacent = array.strides(1) == channels && (array.ndim() == 2 || array.strides(2) == 1);
    if (!adjacent)
        array = py::array_t<std::uint8_t, py::array::c_style | py::array::forcecast>::ensure(array);
    if (!array) throw py::error_already_set();
    view = {static_cast<const std::uint8_t*>(array.data()), static_cast<int>(array.shape(0)),
            static_cast<int>(array.shape(1)), static_cast<int>(channels), array.strides(0)};
    return array;
}

// One implementation of the crops, for both output types.
struct Kernel {
    template <typename Out>
    using Function = void (*)(const ImageView&, const double*, std::ptrdiff_t, const PreprocessSpec&, Out*,
                              int);

    Function<float> to_float;
    Function<std::uint8_t> to_uint8;
};

constexpr Kernel kFast{preprocess<float>, preprocess<std::uint8_t>};
constexpr Kernel kByPoints{preprocess_by_points<float>, preprocess_by_points<std::uint8_t>};
constexpr Kernel kNv12ByPoints{preprocess_nv12_by_points<float>, preprocess_nv12_by_points<std::uint8_t>};

// Whether an (N, 3, H, W) array lies in memory as (N, H, W, 3), without gaps.
bool is_channels_last(const py::array& array) {
    py::ssize_t step = array.itemsize();
    for (const int axis : {1, 3, 2, 0}) {
        if (array.shape(axis) != 1 && array.strides(axis) != step) return false;
        step *= array.shape(axis);
    }
    return true;
}

template <typename Out>
py::array run(Kernel::Function<Out> kernel, const ImageView& image, const py::array_t<double>& affines,
              PreprocessSpec spec, const py::object& given, int threads) {
    const std::vector<py::ssize_t> shape{affines.shape(0), 3, spec.height, spec.width};
    py::array out;
    if (given.is_none()) {
        out = py::array_t<Out>(shape);
    } else {
        if (!py::isinstance<py::array_t<Out>>(given)) {
            throw py::type_error("out must be " + std::string(py::str(py::dtype::of<Out>())) + ", got " +
                                 describe(given));
        }
        out = py::reinterpret_borrow<py::array>(given);
        require_shape(out, "out", shape);
        spec.channels_last = (out.flags() & py::array::c_style) == 0;
        const bool aligned = (out.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
        if ((spec.channels_last && !is_channels_last(out)) || !out.writeable() || !aligned) {
            throw py::value_error("out must be writeable, aligned, and C-contiguous or channels-last");
        }
    }
    auto* data = static_cast<Out*>(out.mutable_data());
    {
        const WithoutGil release;
        kernel(image, affines.data(), affines.shape(0), spec, data, threads);
    }
    return out;
}

template <const Kernel& kernel>
py::array bound_preprocess(const py::object& image, const py::object& affines,
                           const std::pair<int, int>& size, bool swap_rb, const py::object& mean,
                           const py::object& std, const py::object& border, const py::object& dtype,
                           int threads, const py::object& out) {
    ImageView view{};
    const py::array keep = as_image(image, view);
    const auto matrices = require_affines(affines, -1);
    const auto [height, width] = size;
    if (height < 1 || width < 1 || height > kMaxSide || width > kMaxSide) {
        throw py::value_error("size must be (height, width) in 1.." + std::to_string(kMaxSide) + ", got (" +
                              std::to_string(height) + ", " + std::to_string(width) + ")");
    }
    const auto means = require_triple(mean, "mean"), stds = require_triple(std, "std");
    const auto borders = require_triple(border, "border");
    require_threads(threads);

    const py::dtype type = py::dtype::from_args(dtype);
    const bool rounded = type.equal(py::dtype::of<std::uint8_t>());
    if (!rounded && !type.equal(py::dtype::of<float>())) {
        throw py::type_error("dtype must be float32 or uint8, got " + std::string(py::str(type)));
    }
    PreprocessSpec spec{height, width, swap_rb, {}, {}, {}};
    for (std::size_t c = 0; c < 3; ++c) {
        if (stds[c] == 0.0) throw py::value_error("std must not be zero, got " + std::string(py::repr(std)));
        if (rounded && (means[c] != 0.0 || stds[c] != 1.0)) {
            throw py::value_error("uint8 crops are not normalised: leave mean and std at their defaults");
        }
        spec.scale[c] = static_cast<float>(1.0 / stds[c]);
        spec.bias[c] = static_cast<float>(-means[c] / stds[c]);
        spec.border[c] = static_cast<float>(borders[c]);
    }
    return rounded ? run<std::uint8_t>(kernel.to_uint8, view, matrices, spec, out, threads)
                   : run<float>(kernel.to_float, view, matrices, spec, out, threads);
}

}  // namespace

void register_preprocess(py::module_& module) {
    const auto define = [&](const char* name, auto* function, const char* about) {
        module.def(name, function, py::arg("image"), py::arg("affines"), py::arg("size"), py::arg("swap_rb"),
                   py::arg("mean"), py::arg("std"), py::arg("border"), py::arg("dtype"), py::arg("threads"),
                   py::arg("out"), about);
    };
    define("preprocess", &bound_preprocess<kFast>, "Crops of one image.");
    define("_preprocess_by_points", &bound_preprocess<kByPoints>,
           "preprocess by the CUDA kernel's algorithm, for its tests.");
    define("_preprocess_nv12_by_points", &bound_preprocess<kNv12ByPoints>,
           "The same of (3 H / 2, W) NV12: H rows of luma, then those of chroma.");
}

}  // namespace lfpose::bind
