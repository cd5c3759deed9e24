// RAII owners of GPU resources: streams, events, memory, graphs. All live in the device's primary context,
// which other libraries use too.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace lfpose::cuda {

// A CUDA error, and what was being attempted.
class Error : public std::runtime_error {
  public:
    Error(cudaError_t code, const char* what);

    const cudaError_t code;
};

// Throws unless the call succeeded. `what` completes "cannot ...".
inline void check(cudaError_t code, const char* what) {
    if (code != cudaSuccess) throw Error(code, what);
}

int device_count();

struct DeviceFacts {
    std::string name;
    int major, minor;  // compute capability
    std::size_t memory;
    int multiprocessors;
    std::size_t shared_memory;  // maximum per block, opted in
    int driver, runtime;        // versions, 1000 major + 10 minor
};

DeviceFacts device_facts(int device);

// enter_device makes a device's primary context current on this thread; leave_device restores the previous
// context. The runtime's cudaSetDevice could restore a device, but not a context other than its primary one,
// such as pycuda's, and restoring a device that was never used would create a context there.
void enter_device(int device);
void leave_device();

// Scope guard for enter_device and leave_device. Every runtime call belongs inside one: streams and events do
// not select a context, and a new thread otherwise uses device 0.
class OnDevice {
  public:
    explicit OnDevice(int device) { enter_device(device); }
    ~OnDevice() { leave_device(); }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;
};

// Device memory, or pinned host memory.
class Buffer {
  public:
    static Buffer on_device(std::size_t bytes, int device);
    static Buffer pinned(std::size_t bytes, int device);

    std::byte* data() const { return data_.get(); }
    std::size_t bytes() const { return bytes_; }
    int device() const { return device_; }

  private:
    Buffer(std::size_t bytes, int device, bool pinned);

    struct Free {
        int device;
        bool pinned;
        void operator()(std::byte* memory) const;
    };

    std::unique_ptr<std::byte, Free> data_;
    std::size_t bytes_;
    int device_;
};

class Event;

// A CUDA stream: its work runs in order, and concurrently with that of other streams.
class Stream {
  public:
    explicit Stream(int device);
    ~Stream();
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

    cudaStream_t handle() const { return handle_; }
    int device() const { return device_; }
    void synchronize() const;
    void wait(const Event& event) const;
    void copy(void* to, const void* from, std::size_t bytes) const;
    void begin_capture() const;

  private:
    cudaStream_t handle_ = nullptr;
    int device_;
};

class Event {
  public:
    explicit Event(int device, bool timed = false);  // a timed event reads a clock at every record
    ~Event();
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;

    cudaEvent_t handle() const { return handle_; }
    void record(const Stream& stream) const;
    void synchronize() const;
    float milliseconds_since(const Event& earlier) const;

  private:
    cudaEvent_t handle_ = nullptr;
    int device_;
};

// The work queued on a stream between begin_capture() and this object's construction, launched as a whole.
class Graph {
  public:
    explicit Graph(const Stream& captured);
    ~Graph();
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;

    void launch(const Stream& stream) const;

  private:
    cudaGraphExec_t handle_ = nullptr;
    int device_;
};

}  // namespace lfpose::cuda
