// Checks of arguments from Python: a clear TypeError or ValueError instead of undefined behaviour.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <array>
#include <string>
#include <vector>

namespace lfpose::bind {

namespace py = pybind11;

// "float64 (3, 4)" for an array, the type's name for anything else.
std::string describe(const py::handle& object);

// Whether the object is an array whose memory is plain values of type T, in C order. Checked first, because
// NumPy's own conversions run much code only to find that there is nothing to do.
template <typename T>
bool is_plain(const py::handle& object) {
    using py::detail::npy_api;
    constexpr int kPlain = npy_api::NPY_ARRAY_C_CONTIGUOUS_ | npy_api::NPY_ARRAY_ALIGNED_;
    if (!py::isinstance<py::array>(object)) return false;
    const auto array = py::reinterpret_borrow<py::array>(object);
    const py::dtype type = array.dtype();
    return type.num() == py::dtype::num_of<T>() && type.byteorder() == '=' &&
           (array.flags() & kPlain) == kPlain;
}

// The object as a C-contiguous array of type T with `dimensions` axes; copied only if it is not one already.
// `expected` completes "cams must be ...".
template <typename T>
py::array_t<T> require(const py::handle& object, const char* name, py::ssize_t dimensions,
                       const char* expected) {
    const auto message = [&] {
        return std::string(name) + " must be " + expected + ", got " + describe(object);
    };
    py::array_t<T> array;
    if (is_plain<T>(object)) {
        array = py::reinterpret_borrow<py::array_t<T>>(object);
    } else {
        if (!py::isinstance<py::array_t<T>>(object)) throw py::type_error(message());
        // Without the flag, NumPy returns an unaligned C-contiguous array as it is.
        constexpr int flags =
            py::array::c_style | py::array::forcecast | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
        array = py::array_t<T, flags>::ensure(object);
        if (!array) throw py::error_already_set();
    }
    if (array.ndim() != dimensions) throw py::value_error(message());
    return array;
}

// Throws unless the array has this shape.
void require_shape(const py::array& array, const char* name, const std::vector<py::ssize_t>& shape);

// (N, 2, 3) finite float64; N as given, or any if negative.
py::array_t<double> require_affines(const py::handle& object, py::ssize_t n);

// Three finite numbers.
std::array<double, 3> require_triple(const py::handle& object, const char* name);

int require_threads(int threads);

// Releases the GIL. If the interpreter is gone when the GIL is taken again, as for a daemon thread at exit,
// only the thread ends here; pybind11's own guard would end the process, because its destructor is noexcept.
class WithoutGil {
  public:
    WithoutGil() : state_(PyEval_SaveThread()) {}
    WithoutGil(const WithoutGil&) = delete;
    WithoutGil& operator=(const WithoutGil&) = delete;
    ~WithoutGil() noexcept(false) { PyEval_RestoreThread(state_); }

  private:
    PyThreadState* state_;
};

}  // namespace lfpose::bind
