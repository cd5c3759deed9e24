#include <pybind11/pybind11.h>

namespace lfpose::bind {
void register_preprocess(pybind11::module_& module);
void register_decode(pybind11::module_& module);
}  // namespace lfpose::bind

PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
    module.doc() = "CPU kernels of lfpose_edge; use them through lfpose_edge.ops.";
    lfpose::bind::register_preprocess(module);
    lfpose::bind::register_decode(module);
}
