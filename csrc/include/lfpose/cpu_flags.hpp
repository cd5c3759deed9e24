// What an x86 processor can do, where the system does not say so in a file.
#pragma once

#include <string>
#include <vector>

namespace lfpose {

// Names as in Linux's /proc/cpuinfo, of those that this package asks about, which the processor has and the
// system keeps the registers of. None on other processors.
std::vector<std::string> cpu_flags();

// Which version of the kernels was chosen when the module was loaded: "AVX-512", "AVX2" or "baseline"; the
// latter too where the compiler made only one.
const char* instruction_set();

}  // namespace lfpose
