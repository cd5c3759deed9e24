#include "bind.hpp"

PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
    module.doc() = "CPU kernels of lfpose-edge; the public face is lfpose_edge.ops.";
    bind_preprocess(module);
    bind_decode(module);
}
