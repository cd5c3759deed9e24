#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "lfpose/cpu_flags.hpp"

namespace lfpose::bind {
void register_preprocess(pybind11::module_& module);
void register_decode(pybind11::module_& module);
}  // namespace lfpose::bind

PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
    module.doc() = "CPU kernels of lfpose_edge; use them through lfpose_edge.ops.";
    lfpose::bind::register_preprocess(module);
    lfpose::bind::register_decode(module);
    module.def("cpu_flags", &lfpose::cpu_flags, "What this x86 processor can do, in Linux's words.");
    module.def("instruction_set", &lfpose::instruction_set, "The version of the kernels that runs here.");
}
