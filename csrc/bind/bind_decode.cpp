#include "arrays.hpp"
#include "lfpose/decode.hpp"
#include "lfpose/peak.hpp"
#include "method.hpp"

namespace lfpose::bind {
namespace {

constexpr py::ssize_t kMaxSide = 1 << 14;

std::vector<int> require_permutation(const py::object& object, py::ssize_t joints) {
    const std::string message = "flip_permutation must hold each of 0.." + std::to_string(joints - 1) +
                                " once, got " + std::string(py::repr(object));
    const py::array given = py::array::ensure(object);
    const bool whole = given && (given.dtype().kind() == 'i' || given.dtype().kind() == 'u');
    if (!whole) {
        PyErr_Clear();
        throw py::value_error(message);
    }
    const py::array_t<std::int64_t, py::array::c_style | py::array::forcecast> array(given);
    std::vector<int> permutation;
    std::vector<bool> seen(static_cast<std::size_t>(joints));
    bool good = array.ndim() == 1 && array.shape(0) == joints;
    for (py::ssize_t i = 0; good && i < joints; ++i) {
        const std::int64_t joint = array.data()[i];
        good = joint >= 0 && joint < joints && !seen[static_cast<std::size_t>(joint)];
        if (!good) break;
        seen[static_cast<std::size_t>(joint)] = true;
        permutation.push_back(static_cast<int>(joint));
    }
    if (!good) throw py::value_error(message);
    return permutation;
}

// `mirror` is None or a pair: the mirrored crops' maps, and the permutation of the joints.
template <void Decode(const DecodeInput&, const DecodeSpec&, const DecodeOutput&, int)>
py::tuple bound_decode(const py::object& cams, const py::object& presence, const py::object& affines,
                       const DecodeSpec& spec, const py::object& mirror, int threads) {
    const auto maps = require<float>(cams, "cams", 4, "float32 of shape (N, K, h, w)");
    const py::ssize_t n = maps.shape(0), k = maps.shape(1), h = maps.shape(2), w = maps.shape(3);
    if (h < 1 || w < 1 || h > kMaxSide || w > kMaxSide) {
        throw py::value_error("cams must be maps with sides in 1.." + std::to_string(kMaxSide) + ", got " +
                              describe(cams));
    }
    const auto logits = require<float>(presence, "presence", 2, "float32 of shape (N, K)");
    require_shape(logits, "presence", {n, k});
    const auto matrices = require_affines(affines, n);
    require_threads(threads);
    py::array_t<float> mirrored;
    std::vector<int> permutation;
    if (!mirror.is_none()) {
        const auto [flipped, order] = mirror.cast<std::pair<py::object, py::object>>();
        mirrored = require<float>(flipped, "flipped", 4, "float32 of shape (N, K, h, w)");
        require_shape(mirrored, "flipped", {n, k, h, w});
        permutation = require_permutation(order, k);
    }

    py::array_t<float> keypoints({n, k, py::ssize_t{2}}), scores({n, k}), probabilities({n, k});
    const DecodeInput input{
        static_cast<int>(n), static_cast<int>(k), static_cast<int>(h),
        static_cast<int>(w), maps.data(),         mirror.is_none() ? nullptr : mirrored.data(),
        permutation.data(),  logits.data(),       matrices.data()};
    const DecodeOutput output{keypoints.mutable_data(), scores.mutable_data(), probabilities.mutable_data()};
    {
        const WithoutGil release;
        Decode(input, spec, output, threads);
    }
    return py::make_tuple(std::move(keypoints), std::move(scores), std::move(probabilities));
}

float bound_read_once(const py::array_t<float, py::array::c_style>& array) {
    return read_once(array.data(), static_cast<std::size_t>(array.size()));
}

}  // namespace

void register_decode(py::module_& module) {
    py::class_<DecodeSpec>(module, "DecodeSpec", "The constants of a decode; ops.DecodeConfig checks them.")
        .def(py::init(
                 [](double stride, int upsample, const std::string& method, double blur_sigma, int window) {
                     return DecodeSpec{stride, upsample, require_method(method), blur_sigma, window};
                 }),
             py::arg("stride"), py::arg("upsample"), py::arg("method"), py::arg("blur_sigma"),
             py::arg("window"));
    module.def("decode", &bound_decode<decode>, py::arg("cams"), py::arg("presence"), py::arg("affines"),
               py::arg("spec"), py::arg("mirror"), py::arg("threads"));
    module.def("_decode_by_blocks", &bound_decode<decode_by_blocks>, py::arg("cams"), py::arg("presence"),
               py::arg("affines"), py::arg("spec"), py::arg("mirror"), py::arg("threads"),
               "decode by the CUDA kernel's algorithm, for its tests.");
    module.def("_read_once", &bound_read_once, py::arg("array"),
               "The maximum of a float32 array, in one pass.");
}

}  // namespace lfpose::bind
