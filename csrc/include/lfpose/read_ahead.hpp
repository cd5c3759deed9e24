// Prefetches the next map into the cache while the current one is processed.
#pragma once

#include <cstddef>

#include "lfpose/compiler.hpp"

namespace lfpose {

// Prefetches one cache line per step. The steps are spread over all the work on a map: requested all at once,
// the lines would fill the core's miss buffers and everything would stall.
class ReadAhead {
  public:
    ReadAhead(const float* begin, std::ptrdiff_t count) : at_(begin), left_(count) {}

    LFPOSE_INLINE void step() {
        if (left_ <= 0) return;
        LFPOSE_PREFETCH(at_);
        at_ += kLine;
        left_ -= kLine;
    }

  private:
    static constexpr std::ptrdiff_t kLine = 16;  // floats
    const float* at_;
    std::ptrdiff_t left_;
};

}  // namespace lfpose
