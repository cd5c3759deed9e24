#include "lfpose/gpu.hpp"

#include <cuda.h>

#include <algorithm>
#include <map>
#include <mutex>

namespace lfpose::cuda {
namespace {

template <typename Function>
Function driver_function(const char* name) {
    void* found = nullptr;
    constexpr const char* kWhat = "find the driver";
#if CUDART_VERSION >= 12050
    constexpr unsigned kSince = 11000;
    cudaDriverEntryPointQueryResult result{};
    check(cudaGetDriverEntryPointByVersion(name, &found, kSince, cudaEnableDefault, &result), kWhat);
#else
    check(cudaGetDriverEntryPoint(name, &found, cudaEnableDefault), kWhat);
#endif
    if (found == nullptr) throw Error(cudaErrorInsufficientDriver, kWhat);
    return reinterpret_cast<Function>(found);
}

// Driver API functions, looked up when first needed: this library is linked only to the runtime, so that it
// can be imported where there is no driver.
struct Driver {
    CUresult (*init)(unsigned) = driver_function<CUresult (*)(unsigned)>("cuInit");
    CUresult (*get)(CUdevice*, int) = driver_function<CUresult (*)(CUdevice*, int)>("cuDeviceGet");
    CUresult (*retain)(CUcontext*, CUdevice) =
        driver_function<CUresult (*)(CUcontext*, CUdevice)>("cuDevicePrimaryCtxRetain");
    CUresult (*push)(CUcontext) = driver_function<CUresult (*)(CUcontext)>("cuCtxPushCurrent");
    CUresult (*pop)(CUcontext*) = driver_function<CUresult (*)(CUcontext*)>("cuCtxPopCurrent");
};

const Driver& driver() {
    static const Driver found;
    return found;
}

// Driver and runtime share their error codes.
void check(CUresult code, const char* what) { cuda::check(static_cast<cudaError_t>(code), what); }

// Retained once, until the end of the process, as the runtime itself does.
CUcontext primary_context(int device) {
    static std::mutex mutex;
    static std::map<int, CUcontext> known;
    const std::lock_guard<std::mutex> lock(mutex);
    CUcontext& context = known[device];
    if (context == nullptr) {
        constexpr const char* kWhat = "take the device";
        CUdevice handle{};
        check(driver().init(0), kWhat);
        check(driver().get(&handle, device), kWhat);
        check(driver().retain(&context, handle), kWhat);
    }
    return context;
}

// For destructors, which must not throw: the memory of a device that is gone is already freed.
template <typename Free>
void quietly(int device, const Free& free) {
    try {
        const OnDevice current(device);
        free();
        cudaGetLastError();
    } catch (const Error&) {
    }
}

}  // namespace

Error::Error(cudaError_t code, const char* what)
    : std::runtime_error(std::string("cannot ") + what + ": " + cudaGetErrorString(code) + " (" +
                         cudaGetErrorName(code) + ")"),
      code(code) {
    cudaGetLastError();  // clears the error, or the next check would report it again
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

void enter_device(int device) { check(driver().push(primary_context(device)), "take the device"); }

void leave_device() {
    CUcontext left = nullptr;
    driver().pop(&left);
}

Buffer::Buffer(std::size_t bytes, int device, bool pinned)
    : data_(nullptr, Free{device, pinned}), bytes_(bytes), device_(device) {
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
    quietly(device, [&] { pinned ? cudaFreeHost(memory) : cudaFree(memory); });
}

Stream::Stream(int device) : device_(device) {
    const OnDevice current(device);
    check(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "create a stream");
}

Stream::~Stream() {
    quietly(device_, [&] { cudaStreamDestroy(handle_); });
}

void Stream::synchronize() const {
    const OnDevice current(device_);
    check(cudaStreamSynchronize(handle_), "finish the work on the device");
}

void Stream::wait(const Event& event) const {
    const OnDevice current(device_);
    check(cudaStreamWaitEvent(handle_, event.handle(), 0), "wait for an event");
}

void Stream::copy(void* to, const void* from, std::size_t bytes) const {
    const OnDevice current(device_);
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, handle_), "copy");
}

void Stream::begin_capture() const {
    const OnDevice current(device_);
    // Relaxed, because Python may free an array at any time, on this thread too; that is not part of the
    // graph.
    check(cudaStreamBeginCapture(handle_, cudaStreamCaptureModeRelaxed), "capture a graph");
}

Event::Event(int device, bool timed) : device_(device) {
    const OnDevice current(device);
    const unsigned flags = timed ? cudaEventDefault : cudaEventDisableTiming;
    check(cudaEventCreateWithFlags(&handle_, flags), "create an event");
}

Event::~Event() {
    quietly(device_, [&] { cudaEventDestroy(handle_); });
}

void Event::record(const Stream& stream) const {
    const OnDevice current(device_);
    check(cudaEventRecord(handle_, stream.handle()), "record an event");
}

void Event::synchronize() const {
    const OnDevice current(device_);
    check(cudaEventSynchronize(handle_), "finish the work on the device");
}

float Event::milliseconds_since(const Event& earlier) const {
    const OnDevice current(device_);
    float milliseconds = 0.0F;
    check(cudaEventElapsedTime(&milliseconds, earlier.handle_, handle_), "time between two events");
    return milliseconds;
}

Graph::Graph(const Stream& captured) : device_(captured.device()) {
    const OnDevice current(device_);
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(captured.handle(), &graph), "capture a graph");
    const cudaError_t made = cudaGraphInstantiateWithFlags(&handle_, graph, 0);
    cudaGraphDestroy(graph);
    check(made, "make the captured graph launchable");
}

Graph::~Graph() {
    quietly(device_, [&] { cudaGraphExecDestroy(handle_); });
}

void Graph::launch(const Stream& stream) const {
    const OnDevice current(device_);
    check(cudaGraphLaunch(handle_, stream.handle()), "launch a graph");
}

}  // namespace lfpose::cuda
