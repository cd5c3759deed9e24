// The module `_cuda`: streams, memory and kernels of a GPU. Importing it needs no driver.
#include "arrays.hpp"
#include "device_array.hpp"

namespace lfpose::bind {

void register_gpu(py::module_& module) {
    using cuda::Event, cuda::Graph, cuda::Stream;
    py::register_exception<cuda::Error>(module, "CudaError", PyExc_RuntimeError);
    module.def("device_count", &cuda::device_count);
    module.def(
        "device_facts",
        [](int device) {
            const cuda::DeviceFacts facts = cuda::device_facts(device);
            py::dict dict;
            dict["name"] = facts.name;
            dict["compute_capability"] = py::make_tuple(facts.major, facts.minor);
            dict["memory_bytes"] = facts.memory;
            dict["multiprocessors"] = facts.multiprocessors;
            dict["shared_memory_bytes"] = facts.shared_memory;
            dict["driver"] = py::make_tuple(facts.driver / 1000, facts.driver % 1000 / 10);
            dict["runtime"] = py::make_tuple(facts.runtime / 1000, facts.runtime % 1000 / 10);
            return dict;
        },
        py::arg("device") = 0);

    module.def("enter_device", &cuda::enter_device, py::arg("device"),
               "Make a device's primary context this thread's current one, until leave_device().");
    module.def("leave_device", &cuda::leave_device);

    const auto release = py::call_guard<WithoutGil>();
    py::class_<Graph> graph(module, "Graph", py::dynamic_attr(),
                            "Work that a stream was given, to be launched at once.");
    py::class_<Event> event(module, "Event", "A moment of a stream's work.");
    py::class_<Stream, std::shared_ptr<Stream>>(module, "Stream", "Work that is done in order.")
        .def(py::init<int>(), py::arg("device") = 0)
        .def_property_readonly("handle",
                               [](const Stream& s) { return reinterpret_cast<std::intptr_t>(s.handle()); })
        .def_property_readonly("device", &Stream::device)
        .def("synchronize", &Stream::synchronize, release)
        .def("wait", &Stream::wait, py::arg("event"))
        .def("begin_capture", &Stream::begin_capture)
        .def(
            "end_capture",
            [](const Stream& s, const py::args& uses) {
                std::unique_ptr<Graph> made;
                {
                    const WithoutGil others_may_run;
                    made = std::make_unique<Graph>(s);
                }
                py::object graph = py::cast(std::move(made));
                graph.attr("_uses") = uses;
                return graph;
            },
            "The work since begin_capture; what it uses is named, to live as long as the graph.");
    event.def(py::init<int, bool>(), py::arg("device") = 0, py::arg("timed") = false)
        .def("record", &Event::record, py::arg("stream"))
        .def("synchronize", &Event::synchronize, release)
        .def("milliseconds_since", &Event::milliseconds_since, py::arg("earlier"));
    graph.def("launch", &Graph::launch, py::arg("stream"), release);
}

}  // namespace lfpose::bind

PYBIND11_MODULE(_cuda, module) {
    module.doc() = "The kernels on a GPU; see lfpose_edge.ops.";
    lfpose::bind::register_gpu(module);
    lfpose::bind::register_device_array(module);
    lfpose::bind::register_gpu_kernels(module);
}
