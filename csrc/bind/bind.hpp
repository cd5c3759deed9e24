// What the files of the Python module share.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

namespace py = pybind11;

void bind_preprocess(py::module_& module);
void bind_decode(py::module_& module);

// "float32 (3, 4)", for messages.
inline std::string describe(const py::array& array) {
    return py::str(array.dtype()).cast<std::string>() + " " +
           py::str(array.attr("shape")).cast<std::string>();
}

// A C-contiguous array of the wanted type; TypeError or ValueError that says what came instead.
template <typename T>
py::array_t<T, py::array::c_style> checked(const py::array& array, const char* name, const char* wanted,
                                           const std::vector<py::ssize_t>& shape) {
    auto message = [&] { return std::string(name) + " must be " + wanted + ", got " + describe(array); };
    if (!py::isinstance<py::array_t<T>>(array)) throw py::type_error(message());
    bool good = array.ndim() == static_cast<py::ssize_t>(shape.size());
    for (std::size_t i = 0; good && i < shape.size(); ++i) {
        good = shape[i] < 0 || array.shape(static_cast<py::ssize_t>(i)) == shape[i];  // negative: any size
    }
    if (!good) throw py::value_error(message());
    return py::array_t<T, py::array::c_style>::ensure(array);
}

// Affines (n, 2, 3), finite.
inline py::array_t<double, py::array::c_style> checked_affines(const py::array& array, py::ssize_t n) {
    auto affines = checked<double>(array, "affines", "float64 of shape (N, 2, 3)", {n, 2, 3});
    const double* values = affines.data();
    for (py::ssize_t i = 0; i < affines.size(); ++i) {
        if (!(values[i] - values[i] == 0)) {  // true for NaN and infinities
            throw py::value_error("affines must be finite, but the one of index " + std::to_string(i / 6) +
                                  " is not");
        }
    }
    return affines;
}
