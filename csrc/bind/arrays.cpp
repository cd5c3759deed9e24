#include "arrays.hpp"

#include <cmath>
#include <vector>

namespace lfpose::bind {
namespace {

std::string shape_text(const py::ssize_t* shape, py::ssize_t dimensions) {
    std::string text = "(";
    for (py::ssize_t i = 0; i < dimensions; ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
    return text + (dimensions == 1 ? ",)" : ")");
}

}  // namespace

std::string describe(const py::handle& object) {
    if (!py::isinstance<py::array>(object)) {
        return std::string(py::str(py::type::handle_of(object).attr("__name__")));
    }
    const auto array = py::reinterpret_borrow<py::array>(object);
    return std::string(py::str(array.dtype())) + " " + shape_text(array.shape(), array.ndim());
}

void require_shape(const py::array& array, const char* name, const std::vector<py::ssize_t>& shape) {
    bool same = array.ndim() == static_cast<py::ssize_t>(shape.size());
    for (std::size_t i = 0; same && i < shape.size(); ++i) {
        same = array.shape(static_cast<py::ssize_t>(i)) == shape[i];
    }
    if (same) return;
    throw py::value_error(std::string(name) + " must have shape " +
                          shape_text(shape.data(), static_cast<py::ssize_t>(shape.size())) + ", got " +
                          shape_text(array.shape(), array.ndim()));
}

py::array_t<double> require_affines(const py::handle& object, py::ssize_t n) {
    auto affines = require<double>(object, "affines", 3, "float64 of shape (N, 2, 3)");
    require_shape(affines, "affines", {n < 0 ? affines.shape(0) : n, 2, 3});
    const double* values = affines.data();
    for (py::ssize_t i = 0; i < affines.size(); ++i) {
        if (!std::isfinite(values[i])) {
            throw py::value_error("affines must be finite, but affine " + std::to_string(i / 6) + " is not");
        }
    }
    return affines;
}

std::array<double, 3> require_triple(const py::handle& object, const char* name) {
    std::array<double, 3> triple{};
    bool good = py::isinstance<py::sequence>(object) && py::len(object) == 3;
    for (std::size_t i = 0; good && i < 3; ++i) {
        const py::object item = object[py::int_(i)];
        triple[i] = PyFloat_AsDouble(item.ptr());
        if (PyErr_Occurred() != nullptr) {
            PyErr_Clear();
            good = false;
        }
        good = good && std::isfinite(triple[i]);
    }
    if (!good) {
        throw py::value_error(std::string(name) + " must be three finite numbers, got " +
                              std::string(py::repr(object)));
    }
    return triple;
}

int require_threads(int threads) {
    if (threads < 1) throw py::value_error("threads must be at least 1, got " + std::to_string(threads));
    return threads;
}

}  // namespace lfpose::bind
