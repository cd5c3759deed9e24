// How many threads share a loop.
#pragma once

#include <cstddef>

namespace lfpose {

// As many as are wanted, at least one. Alone in a child of a process whose loops threads have shared: a fork
// copies none of them, and OpenMP's runtime (libgomp) would wait for them for ever.
int team_size(std::ptrdiff_t wanted);

}  // namespace lfpose
