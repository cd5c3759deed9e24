#include "device_array.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <utility>

#include "arrays.hpp"
#include "dlpack.hpp"

namespace lfpose::bind {
namespace {

using Shape = std::vector<py::ssize_t>;

constexpr std::size_t kMostBytes = std::size_t{1} << 48;

Shape packed_strides(const Shape& shape, py::ssize_t item) {
    Shape strides(shape.size());
    for (std::size_t axis = shape.size(); axis-- > 0; item *= shape[axis]) strides[axis] = item;
    return strides;
}

std::size_t bytes_of(const Shape& shape, const py::dtype& type) {
    auto bytes = static_cast<std::size_t>(type.itemsize());
    for (const py::ssize_t side : shape) {
        if (side < 0) throw py::value_error("a shape has no negative sides");
        if (side > 0 && bytes > kMostBytes / static_cast<std::size_t>(side)) {
            throw py::value_error("an array of this shape is larger than any memory");
        }
        bytes *= static_cast<std::size_t>(side);
    }
    return bytes;
}

py::capsule owner_of(cuda::Buffer* buffer) {
    return {buffer, [](void* memory) {
                const py::gil_scoped_release release;  // freeing memory waits for the device
                delete static_cast<cuda::Buffer*>(memory);
            }};
}

// An uninitialised host array in pinned memory, which copies need in order to overlap with other work.
py::array pinned_array(const Shape& shape, const py::dtype& type, int device) {
    const std::size_t bytes = bytes_of(shape, type);
    std::unique_ptr<cuda::Buffer> buffer;
    {
        const WithoutGil release;  // pinning memory takes milliseconds
        buffer = std::make_unique<cuda::Buffer>(cuda::Buffer::pinned(bytes, device));
    }
    void* const memory = buffer->data();
    return {type, shape, memory, owner_of(buffer.release())};
}

std::string type_name(const py::object& object) {
    return std::string(py::str(py::type::handle_of(object).attr("__name__")));
}

// Makes `stream` wait for the work queued so far on another stream, given by its handle.
void wait_for(const cuda::Stream& stream, std::intptr_t other) {
    const auto handle = reinterpret_cast<cudaStream_t>(other);
    if (handle == stream.handle()) return;
    const cuda::OnDevice current(stream.device());
    const cuda::Event event(stream.device());
    cuda::check(cudaEventRecord(event.handle(), handle), "record an event in another library's stream");
    stream.wait(event);
}

int device_of(const void* pointer) {
    cudaPointerAttributes attributes{};
    cuda::check(cudaPointerGetAttributes(&attributes, pointer), "find out where an array lies");
    if (attributes.type != cudaMemoryTypeDevice && attributes.type != cudaMemoryTypeManaged) {
        throw py::type_error("the array's __cuda_array_interface__ points to memory that is not a GPU's");
    }
    return attributes.device;
}

void require_device(int device, const cuda::Stream& stream) {
    if (device == stream.device()) return;
    throw py::value_error("the array is on cuda:" + std::to_string(device) + ", the estimator on cuda:" +
                          std::to_string(stream.device()) + ": move one of them");
}

char kind_of(const dlpack::DataType& type) {
    constexpr char kKinds[] = {'i', 'u', 'f'};
    if (type.code > 2 || type.lanes != 1 || type.bits % 8 != 0) {
        throw py::type_error("the array's numbers are not integers or floats of whole bytes");
    }
    return kKinds[type.code];
}

}  // namespace

DeviceArray::DeviceArray(void* data, Shape shape, Shape strides, py::dtype type,
                         std::shared_ptr<cuda::Stream> stream, py::object owner)
    : data_(data),
      shape_(std::move(shape)),
      strides_(std::move(strides)),
      type_(std::move(type)),
      stream_(std::move(stream)),
      owner_(std::move(owner)) {}

DeviceArray DeviceArray::empty(Shape shape, const py::dtype& type, std::shared_ptr<cuda::Stream> stream) {
    const std::size_t bytes = bytes_of(shape, type);
    std::unique_ptr<cuda::Buffer> buffer;
    {
        const WithoutGil release;  // allocating may wait for the device
        buffer = std::make_unique<cuda::Buffer>(cuda::Buffer::on_device(bytes, stream->device()));
    }
    void* const memory = buffer->data();
    py::capsule owner = owner_of(buffer.release());
    Shape strides = packed_strides(shape, type.itemsize());
    return {memory, std::move(shape), std::move(strides), type, std::move(stream), std::move(owner)};
}

// Through __cuda_array_interface__. If it names no stream (before its version 3, and in pycuda), the work of
// the default stream is waited for: such libraries use that stream unless told otherwise.
DeviceArray DeviceArray::by_interface(const py::object& object, std::shared_ptr<cuda::Stream> stream) {
    const auto facts = object.attr("__cuda_array_interface__").cast<py::dict>();
    auto shape = facts["shape"].cast<Shape>();
    const auto type = py::dtype::from_args(facts["typestr"].cast<py::object>());
    const py::object given = facts.attr("get")("strides");
    Shape strides = given.is_none() ? packed_strides(shape, type.itemsize()) : given.cast<Shape>();
    if (strides.size() != shape.size()) throw py::value_error("the array has not as many strides as axes");
    auto* data = reinterpret_cast<void*>(facts["data"].cast<py::tuple>()[0].cast<std::uintptr_t>());
    if (data != nullptr) {  // an empty array has no address
        const cuda::OnDevice current(stream->device());
        require_device(device_of(data), *stream);
    }
    const py::object theirs = facts.attr("get")("stream");
    constexpr std::intptr_t kDefaultStream = 1;
    wait_for(*stream, theirs.is_none() ? kDefaultStream : theirs.cast<std::intptr_t>());
    return {data, std::move(shape), std::move(strides), type, std::move(stream), object};
}

DeviceArray DeviceArray::lent_by(const py::object& object, std::shared_ptr<cuda::Stream> stream) {
    if (!py::hasattr(object, "__dlpack__") || !py::hasattr(object, "__dlpack_device__")) {
        if (py::hasattr(object, "__cuda_array_interface__")) return by_interface(object, std::move(stream));
        throw py::type_error(type_name(object) +
                             " is no array of a GPU: it has neither __dlpack__ nor __cuda_array_interface__");
    }
    const auto [kind, device] = object.attr("__dlpack_device__")().cast<std::pair<int, int>>();
    if (kind != dlpack::kCuda && kind != dlpack::kCudaManaged) {
        throw py::type_error(type_name(object) +
                             " is not in a CUDA device's memory (its DLPack device is of type " +
                             std::to_string(kind) + ")");
    }
    require_device(device, *stream);
    const auto handle = reinterpret_cast<std::intptr_t>(stream->handle());
    const cuda::OnDevice current(stream->device());  // some libraries lend only from the current context
    const auto capsule = object.attr("__dlpack__")(py::arg("stream") = handle).cast<py::capsule>();
    if (std::strcmp(capsule.name(), "dltensor") != 0) {
        throw py::type_error(type_name(object) + ".__dlpack__ gave a " + capsule.name() + ", not a dltensor");
    }
    auto* managed = capsule.get_pointer<dlpack::ManagedTensor>();
    PyCapsule_SetName(capsule.ptr(), "used_dltensor");
    py::capsule owner(managed, [](void* memory) {
        auto* tensor = static_cast<dlpack::ManagedTensor*>(memory);
        if (tensor->deleter != nullptr) tensor->deleter(tensor);
    });
    const dlpack::Tensor& tensor = managed->tensor;
    const int item = tensor.type.bits / 8;
    const auto type = py::dtype(std::string(1, kind_of(tensor.type)) + std::to_string(item));
    Shape shape(tensor.shape, tensor.shape + tensor.dimensions);
    Shape strides = packed_strides(shape, item);
    for (std::size_t axis = 0; tensor.strides != nullptr && axis < shape.size(); ++axis) {
        strides[axis] = tensor.strides[axis] * item;
    }
    return {static_cast<std::byte*>(tensor.data) + tensor.byte_offset,
            std::move(shape),
            std::move(strides),
            type,
            std::move(stream),
            std::move(owner)};
}

DeviceArray DeviceArray::head_of(const py::object& self, Shape shape) {
    const auto& array = self.cast<const DeviceArray&>();
    const auto held = static_cast<std::size_t>(array.type_.itemsize() * array.size());
    if (!array.is_packed() || bytes_of(shape, array.type_) > held) {
        throw py::value_error(array.describe() + " does not hold " +
                              std::string(py::str(py::tuple(py::cast(shape)))) + " without gaps");
    }
    Shape strides = packed_strides(shape, array.type_.itemsize());
    return {array.data_, std::move(shape), std::move(strides), array.type_, array.stream_, self};
}

py::ssize_t DeviceArray::size() const {
    py::ssize_t count = 1;
    for (const py::ssize_t side : shape_) count *= side;
    return count;
}

bool DeviceArray::is_packed(std::size_t first_axis) const {
    if (size() == 0) return true;
    py::ssize_t item = type_.itemsize();
    for (std::size_t axis = shape_.size(); axis-- > first_axis; item *= shape_[axis]) {
        if (shape_[axis] != 1 && strides_[axis] != item) return false;
    }
    return true;
}

std::string DeviceArray::describe() const {
    return std::string(py::str(type_)) + " " + std::string(py::str(py::tuple(py::cast(shape_)))) +
           " on cuda:" + std::to_string(device());
}

void DeviceArray::require_copyable(const py::array& host) const {
    if (!host.dtype().equal(type_)) {
        throw py::type_error("cannot copy between " + bind::describe(host) + " and " + describe());
    }
    require_shape(host, "host", shape_);
    if ((host.flags() & py::array::c_style) == 0 || !is_packed()) {
        throw py::value_error("only C-contiguous arrays are copied to and from a device");
    }
}

void DeviceArray::upload(const py::array& host) const {
    copy_from(host, *stream_);
    const WithoutGil release;
    stream_->synchronize();
}

void DeviceArray::copy_from(const py::array& host, const cuda::Stream& stream) const {
    require_copyable(host);
    const void* from = host.data();
    const auto bytes = static_cast<std::size_t>(host.nbytes());
    const WithoutGil release;
    stream.copy(data_, from, bytes);
}

void DeviceArray::copy_to(py::array& host, const cuda::Stream& stream) const {
    require_copyable(host);
    void* to = host.mutable_data();
    const auto bytes = static_cast<std::size_t>(host.nbytes());
    const WithoutGil release;
    stream.copy(to, data_, bytes);
}

void DeviceArray::put(const DeviceArray& rows, py::ssize_t first, py::ssize_t count,
                      const cuda::Stream& stream) const {
    const auto same_but_for_rows = [&] {
        return !shape_.empty() && shape_.size() == rows.shape_.size() &&
               std::equal(shape_.begin() + 1, shape_.end(), rows.shape_.begin() + 1);
    };
    if (!type_.equal(rows.type_)) {
        throw py::type_error("cannot put rows of " + rows.describe() + " into " + describe());
    }
    if (!same_but_for_rows() || first < 0 || count < 0 || count > rows.shape_[0] ||
        first > shape_[0] - count) {
        throw py::value_error("cannot put " + std::to_string(count) + " rows of " + rows.describe() +
                              " at row " + std::to_string(first) + " of " + describe());
    }
    if (!is_packed() || !rows.is_packed()) {
        throw py::value_error("only rows of C-contiguous arrays are copied");
    }
    if (count == 0 || size() == 0) return;
    const auto row = static_cast<std::size_t>(type_.itemsize() * (size() / shape_[0]));
    auto* to = static_cast<std::byte*>(data_) + static_cast<std::size_t>(first) * row;
    const WithoutGil release;
    stream.copy(to, rows.data_, static_cast<std::size_t>(count) * row);
}

py::array DeviceArray::download() const {
    if (!is_packed()) throw py::value_error("only C-contiguous arrays are downloaded");
    py::array host(type_, shape_);
    void* to = host.mutable_data();
    const auto bytes = static_cast<std::size_t>(host.nbytes());
    {
        const WithoutGil release;
        stream_->copy(to, data_, bytes);
        stream_->synchronize();
    }
    return host;
}

py::dict DeviceArray::cuda_array_interface() const {
    py::dict facts;
    facts["shape"] = py::tuple(py::cast(shape_));
    facts["typestr"] = type_.attr("str");
    facts["data"] = py::make_tuple(reinterpret_cast<std::uintptr_t>(data_), false);
    facts["strides"] = is_packed() ? py::object(py::none()) : py::object(py::tuple(py::cast(strides_)));
    facts["stream"] = reinterpret_cast<std::intptr_t>(stream_->handle());
    facts["version"] = 3;
    return facts;
}

py::capsule DeviceArray::to_dlpack(const py::object& self, const py::object& stream) {
    struct Lent {
        dlpack::ManagedTensor managed;
        std::vector<std::int64_t> shape, strides;
        py::object array;
    };
    const auto& array = self.cast<const DeviceArray&>();
    const int item = static_cast<int>(array.type_.itemsize());
    const char kind = array.type_.kind();
    if (item == 0 || (kind != 'i' && kind != 'u' && kind != 'f')) {
        throw py::buffer_error("only integers and floats are lent, not " + array.describe());
    }
    if (!stream.is_none()) {  // -1: the consumer synchronises by itself
        const auto handle = stream.cast<std::intptr_t>();
        if (handle != -1 && reinterpret_cast<cudaStream_t>(handle) != array.stream_->handle()) {
            const cuda::OnDevice current(array.device());
            const cuda::Event event(array.device());
            event.record(*array.stream_);
            cuda::check(cudaStreamWaitEvent(reinterpret_cast<cudaStream_t>(handle), event.handle(), 0),
                        "let another library's stream wait");
        }
    } else {
        const WithoutGil release;
        array.stream_->synchronize();
    }
    auto* lent = new Lent{{}, {array.shape_.begin(), array.shape_.end()}, {}, self};
    for (const py::ssize_t stride : array.strides_) lent->strides.push_back(stride / item);
    lent->managed.tensor = {array.data_,
                            {dlpack::kCuda, array.device()},
                            static_cast<std::int32_t>(array.shape_.size()),
                            {static_cast<std::uint8_t>(kind == 'i' ? 0 : (kind == 'u' ? 1 : 2)),
                             static_cast<std::uint8_t>(8 * item), 1},
                            lent->shape.data(),
                            lent->strides.data(),
                            0};
    lent->managed.context = lent;
    lent->managed.deleter = [](dlpack::ManagedTensor* managed) {
        if (Py_IsInitialized() == 0) return;  // the process is exiting, and Python is already gone
        const py::gil_scoped_acquire acquire;
        delete static_cast<Lent*>(managed->context);
    };
    return py::capsule(&lent->managed, "dltensor", [](PyObject* capsule) {
        // A consumer that took the tensor has renamed the capsule, and deletes the tensor itself.
        if (PyCapsule_IsValid(capsule, "dltensor") == 0) return;
        auto* managed = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
        managed->deleter(managed);
    });
}

void register_device_array(py::module_& module) {
    module.def("pinned_array", &pinned_array, py::arg("shape"), py::arg("dtype"), py::arg("device") = 0);
    py::class_<DeviceArray>(module, "DeviceArray", "An array in a GPU's memory.")
        .def_static("empty", &DeviceArray::empty, py::arg("shape"), py::arg("dtype"),
                    py::arg("stream").none(false))
        .def_static("lent_by", &DeviceArray::lent_by, py::arg("array"), py::arg("stream").none(false))
        .def_property_readonly("shape", [](const DeviceArray& a) { return py::tuple(py::cast(a.shape())); })
        .def_property_readonly("dtype", &DeviceArray::type)
        .def_property_readonly("device", &DeviceArray::device)
        .def("head", &DeviceArray::head_of, py::arg("shape"),
             "The first elements in another shape; the memory stays this array's.")
        .def("upload", &DeviceArray::upload, py::arg("host"))
        .def("numpy", &DeviceArray::download)
        .def("copy_from", &DeviceArray::copy_from, py::arg("host"), py::arg("stream"))
        .def("copy_to", &DeviceArray::copy_to, py::arg("host"), py::arg("stream"))
        .def("put", &DeviceArray::put, py::arg("rows"), py::arg("first"), py::arg("count"), py::arg("stream"),
             "Queue a copy of another array's first rows into this one's from `first` on.")
        .def_property_readonly("__cuda_array_interface__", &DeviceArray::cuda_array_interface)
        .def("__dlpack__", &DeviceArray::to_dlpack, py::arg("stream") = py::none())
        .def("__dlpack_device__",
             [](const DeviceArray& a) { return py::make_tuple(dlpack::kCuda, a.device()); })
        .def("__repr__", [](const DeviceArray& a) { return "DeviceArray(" + a.describe() + ")"; });
}

}  // namespace lfpose::bind
