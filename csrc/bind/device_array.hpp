// An array in a GPU's memory, our own or borrowed from another library.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lfpose/gpu.hpp"

namespace lfpose::bind {

namespace py = pybind11;

class DeviceArray {
  public:
    // Uninitialised memory on the stream's device. What is written to it is ready when that stream's work is
    // done.
    static DeviceArray empty(std::vector<py::ssize_t> shape, const py::dtype& type,
                             std::shared_ptr<cuda::Stream> stream);

    // Borrows, without a copy, from an object with __dlpack__ or __cuda_array_interface__. `stream` waits for
    // the work that is still pending on the object.
    static DeviceArray lent_by(const py::object& object, std::shared_ptr<cuda::Stream> stream);

    // The first elements in another shape, in the same memory; `self` must be a packed DeviceArray.
    static DeviceArray head_of(const py::object& self, std::vector<py::ssize_t> shape);

    void* data() const { return data_; }
    const std::vector<py::ssize_t>& shape() const { return shape_; }
    py::ssize_t size() const;
    py::ssize_t stride_bytes(std::size_t axis) const { return strides_[axis]; }
    py::dtype type() const { return type_; }
    template <typename T>
    bool holds() const {
        return type_.equal(py::dtype::of<T>());
    }
    bool holds_half() const { return type_.kind() == 'f' && type_.itemsize() == 2; }
    int device() const { return stream_->device(); }
    // Whether its contents are ready when that stream's work is done.
    bool belongs_to(const cuda::Stream& stream) const { return stream_.get() == &stream; }
    // Whether the axes from this one on lie in C order without gaps.
    bool is_packed(std::size_t first_axis = 0) const;
    std::string describe() const;  // "float32 (2, 3) on cuda:0"

    void upload(const py::array& host) const;  // returns when `host` may be changed again
    py::array download() const;                // waits for the stream

    // Queued on any stream, not only the one that this array belongs to, and not waited for. The host array
    // must stay alive and unchanged until the stream is done. Copies overlap with other work only if the host
    // array is in pinned memory.
    void copy_from(const py::array& host, const cuda::Stream& stream) const;
    void copy_to(py::array& host, const cuda::Stream& stream) const;
    // Queues a copy of the first `count` rows of another array into this one, from row `first` on.
    void put(const DeviceArray& rows, py::ssize_t first, py::ssize_t count, const cuda::Stream& stream) const;

    py::dict cuda_array_interface() const;
    static py::capsule to_dlpack(const py::object& self, const py::object& stream);

  private:
    static DeviceArray by_interface(const py::object& object, std::shared_ptr<cuda::Stream> stream);

    // Throws unless `host` can be copied to or from: it has this type and shape, and both are packed.
    void require_copyable(const py::array& host) const;

    DeviceArray(void* data, std::vector<py::ssize_t> shape, std::vector<py::ssize_t> strides, py::dtype type,
                std::shared_ptr<cuda::Stream> stream, py::object owner);

    void* data_;
    std::vector<py::ssize_t> shape_, strides_;  // strides in bytes
    py::dtype type_;
    std::shared_ptr<cuda::Stream> stream_;
    py::object owner_;
};

void register_device_array(py::module_& module);
void register_gpu(py::module_& module);
void register_gpu_kernels(py::module_& module);

}  // namespace lfpose::bind
