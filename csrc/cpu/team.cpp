#include "lfpose/team.hpp"

#include <algorithm>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifndef _WIN32
#include <pthread.h>
#endif

namespace lfpose {
namespace {

bool is_forked_child = false;

#ifndef _WIN32
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { is_forked_child = true; });
#endif

}  // namespace

int team_size(std::ptrdiff_t wanted) {
    if (wanted <= 1 || is_forked_child) return 1;
#ifdef _OPENMP
    return static_cast<int>(std::min<std::ptrdiff_t>(wanted, std::max(1, omp_get_num_procs())));
#else
    return 1;
#endif
}

}  // namespace lfpose
