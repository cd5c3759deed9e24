// How threads share a loop.
#pragma once

#include <cstddef>
#include <exception>

namespace lfpose {

// As many as are wanted, at least one and at most one a processor. Alone in a forked child: a fork copies no
// thread, and OpenMP's runtime (libgomp), which may have been anybody's in the parent, would wait for its own
// for ever.
int team_size(std::ptrdiff_t wanted);

// Calls work(i) for i from 0 to n - 1, by a team that takes `at_once` of them at a time. What a call throws
// is thrown when all are done.
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
        } catch (...) {  // none may leave the loop
#ifdef _OPENMP
#pragma omp critical(lfpose_failure)
#endif
            failure = std::current_exception();
        }
    }
    if (failure) std::rethrow_exception(failure);
}

}  // namespace lfpose
