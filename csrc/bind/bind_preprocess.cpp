#include <pybind11/stl.h>

#include <array>
#include <cmath>
#include <limits>

#include "bind.hpp"
#include "lfpose/preprocess.hpp"

namespace {

using Triple = std::array<double, 3>;

lfpose::ImageView view_image(const py::array& image) {
    const bool gray = image.ndim() == 2;
    const auto channels = gray ? 1 : image.ndim() == 3 ? image.shape(2) : 0;
    if ((channels != 1 && channels != 3 && channels != 4) || image.size() == 0) {
        throw py::value_error("image must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) and not empty, got " +
                              describe(image));
    }
    constexpr auto kLargest = std::numeric_limits<int>::max() / 8;
    if (image.shape(0) > kLargest || image.shape(1) > kLargest) throw py::value_error("image is too large");
    return {static_cast<const std::uint8_t*>(image.data()), static_cast<int>(image.shape(0)),
            static_cast<int>(image.shape(1)), static_cast<int>(channels), image.strides(0)};
}

template <typename Out>
py::array run(const py::array& image, const py::array& affines_given, const lfpose::PreprocessSpec& spec,
              const py::object& out_given, int threads) {
    const auto affines = checked_affines(affines_given, -1);
    const auto n = affines.shape(0);
    const std::vector<py::ssize_t> shape{n, 3, spec.height, spec.width};
    py::array_t<Out> out;
    if (out_given.is_none()) {
        out = py::array_t<Out>(shape);
    } else {
        const py::array given = py::array::ensure(out_given);
        out = checked<Out>(given, "out", "of the crops' dtype and shape (N, 3, h, w)", shape);
        if (out.data() != given.data() || !given.writeable()) {
            throw py::value_error("out must be C-contiguous and writeable");
        }
    }
    // Rows may lie anywhere; the pixels of a row must be adjacent.
    const bool adjacent = image.strides(1) == (image.ndim() == 2 ? 1 : image.shape(2)) &&
                          (image.ndim() == 2 || image.strides(2) == 1 || image.shape(2) == 1);
    const py::array pixels = adjacent ? image : py::array_t<std::uint8_t, py::array::c_style>::ensure(image);
    const lfpose::ImageView view = view_image(pixels);
    Out* target = out.mutable_data();
    {
        const py::gil_scoped_release release;
        lfpose::preprocess(view, affines.data(), static_cast<int>(n), spec, target, threads);
    }
    return out;
}

py::array preprocess(const py::array& image, const py::array& affines, std::pair<int, int> size, bool swap_rb,
                     const Triple& mean, const Triple& std, const Triple& border, const py::object& dtype,
                     int threads, const py::object& out) {
    if (!py::isinstance<py::array_t<std::uint8_t>>(image)) {
        throw py::type_error("image must be uint8, got " + describe(image));
    }
    view_image(image);
    if (size.first < 1 || size.second < 1 || size.first > 16384 || size.second > 16384) {
        throw py::value_error("size must be (height, width) in 1..16384");
    }
    if (threads < 1) throw py::value_error("threads must be at least 1");
    lfpose::PreprocessSpec spec{size.first, size.second, swap_rb, {}, {}, {}};
    bool plain = true;
    for (std::size_t c = 0; c < 3; ++c) {
        if (!std::isfinite(mean[c]) || !std::isfinite(std[c]) || std[c] == 0) {
            throw py::value_error("mean must be finite, and std finite and not 0");
        }
        if (!(border[c] >= 0 && border[c] <= 255))
            throw py::value_error("border must be grey levels in [0, 255]");
        plain = plain && mean[c] == 0 && std[c] == 1;
        spec.scale[c] = static_cast<float>(1 / std[c]);
        spec.bias[c] = static_cast<float>(-mean[c] / std[c]);
        spec.border[c] = static_cast<float>(border[c]);
    }
    const py::dtype type = py::dtype::from_args(dtype);
    if (type.equal(py::dtype::of<float>())) return run<float>(image, affines, spec, out, threads);
    if (!type.equal(py::dtype::of<std::uint8_t>())) {
        throw py::type_error("dtype must be float32 or uint8, got " + py::str(type).cast<std::string>());
    }
    if (!plain) throw py::value_error("uint8 crops are not normalised: leave mean and std out");
    return run<std::uint8_t>(image, affines, spec, out, threads);
}

}  // namespace

void bind_preprocess(py::module_& module) {
    module.def("preprocess", &preprocess, py::arg("image"), py::arg("affines"), py::arg("size"),
               py::kw_only(), py::arg("swap_rb"), py::arg("mean"), py::arg("std"), py::arg("border"),
               py::arg("dtype"), py::arg("threads"), py::arg("out"));
}
