// Detects x86 CPU features, for systems that do not list them in a file.
#pragma once

#include <string>
#include <vector>

namespace lfpose {

// Of the CPU features that this package asks about, those that the processor has and whose registers the
// operating system saves, named as in Linux's /proc/cpuinfo. Empty on processors other than x86-64.
std::vector<std::string> cpu_flags();

// The version of the kernels that was chosen when the module was loaded: "AVX-512", "AVX2" or "baseline",
// which is also the answer if only one version was compiled.
const char* instruction_set();

}  // namespace lfpose
