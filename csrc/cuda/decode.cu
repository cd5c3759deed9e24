#include <cuda_fp16.h>

#include "block.cuh"
#include "lfpose/gpu_decode.hpp"

namespace lfpose::cuda {
namespace {

constexpr int kThreads = 128, kBlocks = 8;  // per block; per multiprocessor, at least

// One map per block.
template <typename Logit>
__global__ void __launch_bounds__(kThreads, kBlocks)
    decode_kernel(const __grid_constant__ DecodeArrays arrays, const __grid_constant__ BlockPlan plan) {
    using ThreadBlock = Block<kThreads>;
    __shared__ typename ThreadBlock::Exchange exchange;
    extern __shared__ double shared[];

    const BlockMemory memory = BlockMemory::within(shared, plan, arrays.height, arrays.width);
    const std::int64_t index = blockIdx.x;
    const MapReader<Logit> read(static_cast<const Logit*>(arrays.cams),
                                static_cast<const Logit*>(arrays.flipped), arrays.flip_permutation,
                                arrays.joints, arrays.height, arrays.width, index);
    ThreadBlock block(exchange);
    double x = 0.0, y = 0.0;
    const Peak peak =
        BlockDecoder<ThreadBlock>(block, plan, memory, arrays.height, arrays.width).decode(read, x, y);
    if (threadIdx.x == 0) {
        const float presence = static_cast<float>(static_cast<const Logit*>(arrays.presence)[index]);
        write_joint(arrays.output, arrays.affines, arrays.joints, presence, index, peak, x, y);
    }
}

// Allows the kernel all the dynamic shared memory that a block may have; `most` receives its size in bytes.
template <typename Logit>
cudaError_t allow_most_shared_memory(std::size_t& most) {
    int device = 0, limit = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) {
        error = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    }
    if (error != cudaSuccess) return error;
    limit -= static_cast<int>(sizeof(typename Block<kThreads>::Exchange));
    most = static_cast<std::size_t>(limit);
    // Always the same value, as other threads may be launching the kernel.
    return cudaFuncSetAttribute(decode_kernel<Logit>, cudaFuncAttributeMaxDynamicSharedMemorySize, limit);
}

template <typename Logit>
cudaError_t launch(const DecodeArrays& arrays, const BlockPlan& plan, cudaStream_t stream) {
    const std::size_t bytes = BlockMemory::bytes(plan, arrays.height, arrays.width);
    constexpr std::size_t kWithoutAsking = 40 << 10;  // on top of the kernel's static shared memory
    if (bytes > kWithoutAsking) {
        std::size_t most = 0;
        const cudaError_t error = allow_most_shared_memory<Logit>(most);
        if (error != cudaSuccess) return error;
        if (bytes > most) return cudaErrorInvalidValue;
    }
    const auto maps = static_cast<unsigned>(arrays.crops) * static_cast<unsigned>(arrays.joints);
    if (maps == 0) return cudaSuccess;
    decode_kernel<Logit><<<maps, kThreads, bytes, stream>>>(arrays, plan);
    return cudaGetLastError();
}

}  // namespace

std::size_t decode_shared_bytes(const BlockPlan& plan, int height, int width) {
    return BlockMemory::bytes(plan, height, width) + sizeof(typename Block<kThreads>::Exchange);
}

cudaError_t decode(const DecodeArrays& arrays, const BlockPlan& plan, Precision precision,
                   cudaStream_t stream) {
    return precision == Precision::float16 ? launch<__half>(arrays, plan, stream)
                                           : launch<float>(arrays, plan, stream);
}

}  // namespace lfpose::cuda
