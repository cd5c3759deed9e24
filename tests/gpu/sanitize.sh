#!/bin/sh
# The GPU tests under compute-sanitizer: memory accesses, races in shared memory, barriers, memory read before
# it is written. Fails when a test or a tool finds something.
#
#     tests/gpu/sanitize.sh [TOOL ...]      memcheck racecheck synccheck initcheck, if none is named
#
# The kernels' tests only, in one process: every access is watched, which is slow.
set -eu
cd "$(dirname "$0")" # not the checkout's folder, whose lfpose_edge Python would take for the installed one
command -v compute-sanitizer >/dev/null || {
    echo "error: compute-sanitizer is not on PATH: it comes with the CUDA toolkit" >&2
    exit 1
}
python -c "from lfpose_edge.ops import gpu; gpu.require_device()" 2>/dev/null || {
    echo "error: there is no GPU to run on (lfpose doctor says what is missing)" >&2
    exit 1
}
[ $# -gt 0 ] || set -- memcheck racecheck synccheck initcheck
for tool in "$@"; do
    echo "== $tool"
    compute-sanitizer --tool "$tool" --error-exitcode 9 --target-processes all \
        python -m pytest -q -n0 -p no:cacheprovider -p no:benchmark test_gpu_kernels.py
done
