// Converts the Python name of a decode's refinement to its Method.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "lfpose/decode.hpp"

namespace lfpose::bind {

inline Method require_method(const std::string& name) {
    if (name == "none") return Method::none;
    if (name == "quarter") return Method::quarter;
    if (name == "dark") return Method::dark;
    if (name == "softargmax") return Method::softargmax;
    throw pybind11::value_error("unknown decode method " + name);
}

}  // namespace lfpose::bind
