#include "lfpose/gpu.hpp"

#include <algorithm>

namespace lfpose::cuda {
namespace {

// For destructors, which cannot throw: a device that went away has freed its memory itself.
void forget(cudaError_t) { cudaGetLastError(); }

}  // namespace

Error::Error(cudaError_t code, const char* what)
    : std::runtime_error(std::string("cannot ") + what + ": " + cudaGetErrorString(code) + " (" +
                         cudaGetErrorName(code) + ")"),
      code(code) {
    cudaGetLastError();  // or the next call that is asked would report it again
}

int device_count() {
    int count = 0;
    check(cudaGetDeviceCount(&count), "find a CUDA device");
    return count;
}

DeviceFacts device_facts(int device) {
    const char* what = "ask for the device's properties";
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, device), what);
    DeviceFacts facts{properties.name,
                      properties.major,
                      properties.minor,
                      properties.totalGlobalMem,
                      properties.multiProcessorCount,
                      properties.sharedMemPerBlockOptin,
                      0,
                      0};
    check(cudaDriverGetVersion(&facts.driver), what);
    check(cudaRuntimeGetVersion(&facts.runtime), what);
    return facts;
}

OnDevice::OnDevice(int device) : device_(device) {
    check(cudaGetDevice(&before_), "find the current device");
    // Even to set the device that is current makes a context on it.
    if (device != before_) check(cudaSetDevice(device), "take the device");
}

OnDevice::~OnDevice() {
    if (device_ != before_) forget(cudaSetDevice(before_));
}

Buffer::Buffer(std::size_t bytes, int device, bool pinned)
    : data_(nullptr, Free{device, pinned}), bytes_(bytes), device_(device), pinned_(pinned) {
    const OnDevice current(device);
    void* memory = nullptr;
    const std::size_t asked = std::max<std::size_t>(bytes, 1);
    if (pinned) {
        check(cudaHostAlloc(&memory, asked, cudaHostAllocDefault), "allocate pinned memory");
    } else {
        check(cudaMalloc(&memory, asked), "allocate device memory");
    }
    data_.reset(static_cast<std::byte*>(memory));
}

Buffer Buffer::on_device(std::size_t bytes, int device) { return {bytes, device, false}; }
Buffer Buffer::pinned(std::size_t bytes, int device) { return {bytes, device, true}; }

void Buffer::Free::operator()(std::byte* memory) const {
    forget(pinned ? cudaFreeHost(memory) : cudaFree(memory));
}

Stream::Stream(int device) : device_(device) {
    const OnDevice current(device);
    check(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "create a stream");
}

Stream::~Stream() { forget(cudaStreamDestroy(handle_)); }

void Stream::synchronize() const { check(cudaStreamSynchronize(handle_), "finish the work on the device"); }

void Stream::wait(const Event& event) const {
    check(cudaStreamWaitEvent(handle_, event.handle(), 0), "wait for an event");
}

void Stream::copy(void* to, const void* from, std::size_t bytes) const {
    const OnDevice current(device_);
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, handle_), "copy");
}

void Stream::begin_capture() const {
    const OnDevice current(device_);
    // Python may free an array at any time, this thread's among them; that is no part of the graph.
    check(cudaStreamBeginCapture(handle_, cudaStreamCaptureModeRelaxed), "capture a graph");
}

Event::Event(int device) : device_(device) {
    const OnDevice current(device);
    check(cudaEventCreate(&handle_), "create an event");
}

Event::~Event() { forget(cudaEventDestroy(handle_)); }

void Event::record(const Stream& stream) const {
    const OnDevice current(device_);
    check(cudaEventRecord(handle_, stream.handle()), "record an event");
}

void Event::synchronize() const { check(cudaEventSynchronize(handle_), "finish the work on the device"); }

float Event::milliseconds_since(const Event& earlier) const {
    float milliseconds = 0.0F;
    check(cudaEventElapsedTime(&milliseconds, earlier.handle_, handle_), "time between two events");
    return milliseconds;
}

Graph::Graph(const Stream& captured) : device_(captured.device()) {
    const OnDevice current(device_);
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(captured.handle(), &graph), "capture a graph");
    const cudaError_t made = cudaGraphInstantiateWithFlags(&handle_, graph, 0);
    forget(cudaGraphDestroy(graph));
    check(made, "make the captured graph launchable");
}

Graph::~Graph() { forget(cudaGraphExecDestroy(handle_)); }

void Graph::launch(const Stream& stream) const {
    const OnDevice current(device_);
    check(cudaGraphLaunch(handle_, stream.handle()), "launch a graph");
}

}  // namespace lfpose::cuda
