// What an x86 processor can do, where the system does not say so in a file.
#pragma once

#include <string>
#include <vector>

namespace lfpose {

// Names as in Linux's /proc/cpuinfo, of those that this package asks about, which the processor has and the
// system keeps the registers of. None on other processors.
std::vector<std::string> cpu_flags();

}  // namespace lfpose
