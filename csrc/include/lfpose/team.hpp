// Shares a loop among threads.
#pragma once

#include <cstddef>
#include <exception>

namespace lfpose {

// The number of threads to use: as many as wanted, at least one and at most one per processor. Always one in
// a forked child: a fork copies no other threads, and OpenMP's runtime (libgomp), which any code may have
// used in the parent, would wait for its threads forever.
int team_size(std::ptrdiff_t wanted);

// Calls work(i) for every i in [0, n), on `team` threads that each take `at_once` of them at a time. With
// several threads, an exception from a call is rethrown after all calls have been made.
template <typename Work>
void share(std::ptrdiff_t n, int team, int at_once, const Work& work) {
    if (team == 1) {
        for (std::ptrdiff_t i = 0; i < n; ++i) work(i);
        return;
    }
    std::exception_ptr failure;
#ifdef _OPENMP
#pragma omp parallel for num_threads(team) schedule(dynamic, at_once)
#endif
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        try {
            work(i);
        } catch (...) {  // no exception may leave a parallel loop
#ifdef _OPENMP
#pragma omp critical(lfpose_failure)
#endif
            failure = std::current_exception();
        }
    }
    if (failure) std::rethrow_exception(failure);
}

}  // namespace lfpose
