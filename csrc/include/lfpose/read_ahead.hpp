// The next map's way to the cache, while this one is worked on.
#pragma once

#include <cstddef>

#include "lfpose/compiler.hpp"

namespace lfpose {

// Fetches a cache line at every step. Steps are spread over all the work on a map: asked for at once, the
// lines would fill the core's miss buffers and everything would wait.
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
