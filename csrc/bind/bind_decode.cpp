#include <limits>
#include <utility>

#include "bind.hpp"
#include "lfpose/decode.hpp"

namespace {

using Floats = py::array_t<float, py::array::c_style>;

lfpose::Refinement refinement(const std::string& name) {
    static const std::pair<const char*, lfpose::Refinement> names[] = {
        {"none", lfpose::Refinement::none},
        {"quarter", lfpose::Refinement::quarter},
        {"dark", lfpose::Refinement::dark},
        {"softargmax", lfpose::Refinement::softargmax},
    };
    for (const auto& [known, value] : names) {
        if (name == known) return value;
    }
    throw py::value_error("unknown refinement '" + name + "'");
}

py::tuple decode(const py::array& cams_given, const py::array& presence_given, const py::array& affines_given,
                 double stride, int upsample, const std::string& method, double blur_sigma, int window,
                 const py::object& flipped_given, const py::object& permutation_given, int threads) {
    const auto cams = checked<float>(cams_given, "cams", "float32 of shape (N, K, h, w)", {-1, -1, -1, -1});
    const auto n = cams.shape(0), k = cams.shape(1), height = cams.shape(2), width = cams.shape(3);
    constexpr py::ssize_t kLargest = 4096;
    if (height < 1 || width < 1 || height > kLargest || width > kLargest || n > 1 << 20 || k > 1 << 20) {
        throw py::value_error("cams must have maps of 1..4096 cells a side, got " + describe(cams));
    }
    const auto presence =
        checked<float>(presence_given, "presence", "float32 of shape (N, K), as cams has them", {n, k});
    const auto affines = checked_affines(affines_given, n);
    if (threads < 1) throw py::value_error("threads must be at least 1");

    Floats flipped;
    py::array_t<std::int64_t, py::array::c_style> permutation;
    if (flipped_given.is_none() != permutation_given.is_none()) {
        throw py::value_error("flipped and flip_permutation go together");
    }
    if (!flipped_given.is_none()) {
        flipped = checked<float>(py::array::ensure(flipped_given), "flipped", "float32 of cams' shape",
                                 {n, k, height, width});
        permutation = checked<std::int64_t>(py::array::ensure(permutation_given), "flip_permutation",
                                            "int64 of shape (K,)", {k});
        for (py::ssize_t i = 0; i < k; ++i) {
            if (permutation.data()[i] < 0 || permutation.data()[i] >= k) {
                throw py::value_error("flip_permutation must hold joint numbers in 0..K-1");
            }
        }
    }

    Floats keypoints({n, k, py::ssize_t{2}}), scores({n, k}), present({n, k});
    const lfpose::CamBatch batch{cams.data(),
                                 flipped_given.is_none() ? nullptr : flipped.data(),
                                 flipped_given.is_none() ? nullptr : permutation.data(),
                                 presence.data(),
                                 affines.data(),
                                 static_cast<int>(n),
                                 static_cast<int>(k),
                                 static_cast<int>(height),
                                 static_cast<int>(width)};
    const lfpose::DecodeSpec spec{stride, upsample, refinement(method), blur_sigma, window};
    const lfpose::Joints joints{keypoints.mutable_data(), scores.mutable_data(), present.mutable_data()};
    {
        const py::gil_scoped_release release;
        lfpose::decode(batch, spec, joints, threads);
    }
    return py::make_tuple(keypoints, scores, present);
}

float read_once(const Floats& values) {
    const py::gil_scoped_release release;
    return lfpose::largest(values.data(), values.size());
}

}  // namespace

void bind_decode(py::module_& module) {
    module.def("decode", &decode, py::arg("cams"), py::arg("presence"), py::arg("affines"), py::kw_only(),
               py::arg("stride"), py::arg("upsample"), py::arg("method"), py::arg("blur_sigma"),
               py::arg("window"), py::arg("flipped"), py::arg("flip_permutation"), py::arg("threads"));
    module.def("read_once", &read_once, py::arg("values"));
}
