// A block of CUDA threads with the interface that decode_block.hpp requires.
#pragma once

#include "lfpose/upsample.hpp"

namespace lfpose::cuda {

template <int Threads>
class Block {
    static_assert(Threads % 32 == 0, "whole warps");
    static constexpr int kWarps = Threads / 32;
    static constexpr unsigned kAll = 0xffffffffU;

  public:
    // One per block, in its shared memory.
    union Exchange {
        struct {
            int x[kWarps], y[kWarps];
            float value[kWarps];
        } peak;
        double sums[3][kWarps];
    };

    __device__ explicit Block(Exchange& exchange) : exchange_(exchange) {}

    template <typename F>
    __device__ __forceinline__ void for_each(int count, F f) const {
#pragma unroll 4
        for (int i = static_cast<int>(threadIdx.x); i < count; i += Threads) f(i);
        __syncthreads();
    }

    // Calls f(i, j) for every chosen i below `count` and every j below `each`. The threads of a warp share
    // the values of j, so that one chosen i does not keep the whole block waiting for one thread.
    template <typename Chosen, typename F>
    __device__ __forceinline__ void for_each_chosen(int count, Chosen chosen, int each, F f) const {
        for (int base = warp() * 32; base < count; base += Threads) {
            const int mine = base + lane();
            unsigned left = __ballot_sync(kAll, mine < count && chosen(mine));
            for (; left != 0; left &= left - 1) {
                const int i = base + __ffs(static_cast<int>(left)) - 1;
                for (int j = lane(); j < each; j += 32) f(i, j);
            }
        }
        __syncthreads();
    }

    __device__ __forceinline__ static bool leads() { return warp() == 0; }

    __device__ __forceinline__ Peak best(Peak peak) const {
        peak = best_of_warp(peak);
        if (lane() == 0) {
            exchange_.peak.x[warp()] = peak.x;
            exchange_.peak.y[warp()] = peak.y;
            exchange_.peak.value[warp()] = peak.value;
        }
        __syncthreads();
        // Every warp computes the same result, so that none has to wait for another's.
        const int from = lane() < kWarps ? lane() : 0;
        peak = best_of_warp({exchange_.peak.x[from], exchange_.peak.y[from], exchange_.peak.value[from]});
        __syncthreads();  // before the exchange is written again
        return {__shfl_sync(kAll, peak.x, 0), __shfl_sync(kAll, peak.y, 0), __shfl_sync(kAll, peak.value, 0)};
    }

    __device__ __forceinline__ void sum(double& a, double& b, double& c) const {
        double* values[3] = {&a, &b, &c};
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            double value = *values[i];
#pragma unroll
            for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAll, value, step);
            if (lane() == 0) exchange_.sums[i][warp()] = value;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            double value = 0.0;
            for (int w = 0; w < kWarps; ++w) value += exchange_.sums[i][w];
            *values[i] = value;
        }
        __syncthreads();
    }

  private:
    __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
    __device__ static int warp() { return static_cast<int>(threadIdx.x) / 32; }

    // The best of a warp's peaks, returned in lane 0.
    __device__ __forceinline__ static Peak best_of_warp(Peak peak) {
#pragma unroll
        for (int step = 16; step > 0; step /= 2) {
            const Peak other{__shfl_down_sync(kAll, peak.x, step), __shfl_down_sync(kAll, peak.y, step),
                             __shfl_down_sync(kAll, peak.value, step)};
            if (peak.yields_to(other.value, other.x, other.y)) peak = other;
        }
        return peak;
    }

    Exchange& exchange_;
};

}  // namespace lfpose::cuda
