"""How long the CUDA kernels take, beside torch, eager and compiled. Needs a GPU, and torch built for it.

    python benchmarks/gpu_kernels.py

CUDA events surround every call. Ours and one competitor at a time take turns, on inputs that rotate through
more memory than a GPU's cache; ours is therefore listed once beside each. ``p50_us`` is the GPU's time: the
queueing of the call is hidden behind a kernel that idles before it. ``call_us`` is what a caller with an
empty stream sees, Python and launches included; ``times_ours`` compares that, ``gpu_times_ours`` the GPU's
time. ``gb_per_s`` is what a call must at least read and write, divided by its GPU time, and ``of_copy`` is
that rate divided by the rate of a copy within the GPU's memory in the same run. Writes
benchmarks/results/gpu_kernels.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import unfused
from recording import percentiles, print_table, write

from lfpose_edge import ops
from lfpose_edge.errors import BackendUnavailable
from lfpose_edge.geometry import crop_affines
from lfpose_edge.ops import gpu

RESULTS = Path(__file__).parent / "results" / "gpu_kernels.json"
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
RING_BYTES = 256 << 20
JOINTS, SIDE, FACTOR, CROP = 17, 64, 4, (256, 256)
FRAME = (1080, 1920)
Call = Callable[[], object]


IDLE_CYCLES = 16_000_000  # about eight milliseconds: longer than it takes to queue torch's calls


class Clock:
    """Times calls on a stream by CUDA events, in microseconds."""

    def __init__(self, new_event: Callable[[], Any], stream: Any) -> None:
        self._events, self._stream = (new_event(), new_event()), stream
        ours = hasattr(stream, "handle")
        self._as_torchs = torch.cuda.ExternalStream(stream.handle) if ours else stream

    def __call__(self, call: Call, *, queued: bool = False) -> float:
        """The time of a call; ``queued`` leaves out the time to queue it."""
        before, after = self._events
        if queued:
            with torch.cuda.stream(self._as_torchs):
                torch.cuda._sleep(IDLE_CYCLES)
        before.record(self._stream)
        call()
        after.record(self._stream)
        after.synchronize()
        passed = (
            after.milliseconds_since(before)
            if hasattr(after, "milliseconds_since")
            else before.elapsed_time(after)
        )
        return 1e3 * float(passed)


def decode_calls(n: int, kind: type, stream: Any) -> tuple[dict[str, Call], int]:
    """Ours and torch's decode of n persons, and the bytes that must move."""
    from lfpose_edge._cuda import Decoder, DeviceArray

    size = np.dtype(kind).itemsize
    one = n * JOINTS * SIDE * SIDE * size
    generator = torch.Generator("cuda").manual_seed(0)
    ring = [_bumps(n, generator).to(_torch(kind)) for _ in range(max(3, RING_BYTES // one))]
    presence = torch.randn(n, JOINTS, device="cuda", generator=generator).to(_torch(kind))
    affines = np.tile(np.array([[1.3, 0.0, 40.0], [0.0, 1.3, 20.0]]), (n, 1, 1))
    config = ops.DecodeConfig(stride=FACTOR, upsample=FACTOR)
    decoder = Decoder(*config.constants, stream)
    shapes = ((n, JOINTS, 2), (n, JOINTS), (n, JOINTS))
    joints = [DeviceArray.empty(shape, np.dtype(np.float32), stream) for shape in shapes]
    lent = cycle([gpu.on_device(maps, stream) for maps in ring])
    lent_presence, on_device = gpu.on_device(presence, stream), gpu.on_device(affines, stream)
    torch_affines = torch.from_numpy(affines).float().cuda()
    compiled = torch.compile(unfused.decode)
    eager_ring, compiled_ring = cycle(ring[len(ring) // 3 :] + ring[: len(ring) // 3]), cycle(ring[::-1])
    return {
        "ours": lambda: decoder.decode(next(lent), lent_presence, on_device, *joints, stream),
        "torch eager": lambda: unfused.decode(next(eager_ring), presence, torch_affines, FACTOR),
        "torch.compile": lambda: compiled(next(compiled_ring), presence, torch_affines, FACTOR),
    }, one + n * JOINTS * (size + 16)


def crop_calls(n: int, stream: Any) -> tuple[dict[str, Call], int]:
    """Ours and torch's crops of n persons of a frame, and the bytes that must move."""
    from lfpose_edge._cuda import DeviceArray, plan_crops, preprocess_crops

    rng = np.random.default_rng(0)
    height, width = FRAME
    frames = [
        torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, device="cuda")
        for _ in range(max(3, RING_BYTES // (3 * height * width)))
    ]
    tall = rng.uniform(0.3, 0.75, n) * height
    wide = tall * rng.uniform(0.35, 0.8, n)
    x, y = rng.uniform(0, width - wide), rng.uniform(0, height - tall)
    affines = crop_affines(np.stack([x, y, x + wide, y + tall], 1), CROP)
    out = DeviceArray.empty((n, 3, *CROP), np.dtype(np.float32), stream)
    plans = gpu.on_device(plan_crops(affines, CROP), stream)
    lent = cycle([gpu.on_device(frame, stream) for frame in frames])
    torch_affines = torch.from_numpy(affines).float().cuda()
    compiled = torch.compile(unfused.crop)
    constants = unfused.crop_constants(FRAME, CROP, MEAN, STD, "cuda")
    # Each starts at a different place, so that none finds a frame in the cache that another has just read.
    eager_ring, compiled_ring = (cycle(frames[i:] + frames[:i]) for i in (len(frames) // 3, len(frames) // 2))
    black = (0, 0, 0)
    return {
        "ours": lambda: preprocess_crops(next(lent), plans, out, True, MEAN, STD, black, 1.0, stream),
        "torch eager": lambda: unfused.crop(next(eager_ring), torch_affines, CROP, constants),
        "torch.compile": lambda: compiled(next(compiled_ring), torch_affines, CROP, constants),
    }, 4 * n * 3 * CROP[0] * CROP[1] + 3 * min(height * width, int(np.abs(tall * wide).sum()))


def copy_bandwidth(clock: Clock) -> float:
    """Gigabytes per second that a copy within the GPU's memory reads and writes."""
    source = torch.empty(RING_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = [clock(lambda: target.copy_(source), queued=True) for _ in range(30)]
    return 2 * RING_BYTES / (float(np.median(times[5:])) * 1e3)


def _bumps(n: int, generator: torch.Generator) -> torch.Tensor:
    def uniform(low: float, high: float) -> torch.Tensor:
        drawn = torch.rand(n, JOINTS, 1, 1, device="cuda", generator=generator)
        return low + (high - low) * drawn

    y, x = torch.meshgrid(*[torch.arange(SIDE, device="cuda")] * 2, indexing="ij")
    away = (x - uniform(3, SIDE - 3)) ** 2 + (y - uniform(3, SIDE - 3)) ** 2
    noise = 0.3 * torch.randn(n, JOINTS, SIDE, SIDE, device="cuda", generator=generator)
    return 9 * torch.exp(-away / (2 * uniform(1.2, 2.2) ** 2)) - 5 + noise


def _torch(kind: type) -> torch.dtype:
    return torch.float16 if kind is np.float16 else torch.float32


def cases(stream: Any) -> Iterator[tuple[str, dict[str, Call], int]]:
    """What is timed: name, competitors, bytes."""
    for n in (1, 8, 64):
        yield f"crop {n}x{CROP[0]}x{CROP[1]} of {FRAME[1]}x{FRAME[0]}", *crop_calls(n, stream)
    for kind in (np.float32, np.float16):
        for n in (1, 8, 64):
            name = f"decode {n}x{JOINTS}x{SIDE}x{SIDE} dark {np.dtype(kind).name}"
            yield name, *decode_calls(n, kind, stream)


def main() -> None:
    """Time, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=300, help="turns of each pair")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the rows are written")
    options = parser.parse_args()
    try:
        stream = gpu.open_device()
    except BackendUnavailable as error:
        sys.exit(f"error: {error}")
    from lfpose_edge._cuda import Event, device_facts

    torch_clock = Clock(lambda: torch.cuda.Event(enable_timing=True), torch.cuda.current_stream())
    own_clock = Clock(lambda: Event(timed=True), stream)
    copy = copy_bandwidth(torch_clock)
    rows = []
    for case, competitors, moved in cases(stream):
        others = [name for name in competitors if name != "ours"]
        for other in others:
            pair = (("ours", own_clock), (other, torch_clock))
            times = {(name, queued): [] for name, _ in pair for queued in (True, False)}
            for turn in range(options.rounds + 20):  # the first are warm-up: torch compiles there
                for name, clock in pair:
                    for queued in (True, False):
                        took = clock(competitors[name], queued=queued)
                        if turn >= 20:
                            times[name, queued].append(took)
            for name, beside in (("ours", other), (other, "ours")):
                gpu_time = {
                    f"{key}_us": round(value, 2) for key, value in percentiles(times[name, True]).items()
                }
                speed = moved / gpu_time["p50_us"] / 1e3
                ratios = {
                    key: round(float(np.median(np.array(times[name, how]) / np.array(times["ours", how]))), 2)
                    for key, how in (("times_ours", False), ("gpu_times_ours", True))
                }
                rows.append(
                    {
                        "case": case,
                        "way": name,
                        "beside": beside,
                        **gpu_time,
                        "call_us": round(float(np.median(times[name, False])), 2),
                        "gb_per_s": round(speed, 1),
                        "of_copy": round(speed / copy, 3),
                        **ratios,
                    }
                )
    facts = device_facts(stream.device)
    print(f"{facts['name']}, copies {copy:.0f} GB/s")
    print_table(rows)
    write(options.json, [{**row, "gpu": facts["name"], "copy_gb_per_s": round(copy, 1)} for row in rows])


if __name__ == "__main__":
    main()
