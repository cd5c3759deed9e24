"""The pipeline of a frame on a real GPU, with torch in the engine's place, so that no TensorRT is needed."""

from __future__ import annotations

import resource
import threading
from typing import Any

import cv2
import numpy as np
import pytest

from lfpose_edge import ops
from lfpose_edge.geometry import crop_affines
from lfpose_edge.ops.pycuda import as_gpuarray, primary_context
from lfpose_edge.pipeline import Located, Stages
from lfpose_edge.pipeline.device import DevicePipeline
from lfpose_edge.pipeline.host import HostPipeline

SIZE, STRIDE, JOINTS = (64, 48), 4, 3
STAGES = Stages(
    size=SIZE,
    joints=JOINTS,
    cells=(SIZE[0] // STRIDE, SIZE[1] // STRIDE),
    color="bgr",
    swap_rb=True,
    mean=(0.0, 0.0, 0.0),
    std=(32.0, 32.0, 32.0),
    border=(0.0, 0.0, 0.0),
    decode=ops.DecodeConfig(STRIDE, method="softargmax"),
    max_batch=8,
    threads=1,
)


class NumpySpot:
    """CAMs are the red channel, averaged over cells; presence is its maximum minus 2."""

    description, channels_last = "numpy cpu fp32", False

    def infer(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = STAGES.cells
        cells = crops[:, :1].reshape(len(crops), 1, rows, STRIDE, columns, STRIDE).mean(axis=(3, 5))
        cams = np.repeat(cells, JOINTS, axis=1).astype(np.float32)
        return cams, cams.max(axis=(2, 3)) - 2

    def close(self) -> None:
        """There is nothing to free."""


class TorchSpot:
    """The same on the GPU, on whatever stream it is given."""

    description, channels_last, device, scratch_bytes = "torch cuda:0 fp32", False, 0, 64

    def __init__(self, captures: bool) -> None:
        self.captures = captures

    def infer(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return NumpySpot().infer(crops)

    def new_context(self, scratch: Any = None) -> TorchSpot:
        assert scratch.shape == (self.scratch_bytes,)
        return self

    def enqueue(self, crops: Any, cams: Any, presence: Any, stream: Any) -> None:
        import torch

        with torch.cuda.stream(torch.cuda.ExternalStream(stream.handle)):
            red = torch.from_dlpack(crops)[:, :1]
            cells = torch.nn.functional.avg_pool2d(red, STRIDE)
            torch.from_dlpack(cams).copy_(cells.expand(-1, JOINTS, -1, -1))
            torch.from_dlpack(presence).copy_(cells.amax(dim=(2, 3)).expand(-1, JOINTS) - 2)

    def close(self) -> None:
        """There is nothing to free."""


@pytest.fixture(params=[True, False], ids=["graphs", "one by one"])
def pipeline(request: pytest.FixtureRequest, stream: Any) -> DevicePipeline:
    torch = pytest.importorskip("torch", reason="torch is not here to stand in for the engine")
    if not torch.cuda.is_available():
        pytest.skip("torch was built without CUDA")
    return DevicePipeline(TorchSpot(request.param), STAGES)


def _frame(seed: int, size: tuple[int, int] = (480, 640)) -> np.ndarray:
    """Smooth hills, so that every crop has one highest place."""
    coarse = np.random.default_rng(seed).integers(60, 190, (size[0] // 40, size[1] // 40, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC))


def _affines(count: int, seed: int) -> np.ndarray:
    corner = np.random.default_rng(seed).uniform(0, 300, (count, 2))
    return crop_affines(np.concatenate([corner, corner + (90, 150)], axis=1), SIZE)


def _assert_same(found: Any, frame: np.ndarray, affines: np.ndarray) -> None:
    expected = HostPipeline(NumpySpot(), STAGES).submit(frame, affines)()
    away = np.linalg.norm(found.keypoints - expected.keypoints, axis=2)
    assert away.shape == (len(affines), JOINTS)
    # Of two places that are equally high except for rounding, either may be found.
    assert np.mean(away < 0.05) >= 0.7
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
    np.testing.assert_allclose(found.presence, expected.presence, atol=1e-3)


def test_frames_of_every_number_of_people(pipeline: DevicePipeline) -> None:
    captured = pipeline._graphs
    for number in range(40):
        affines = _affines(1 + number % 11, number)
        _assert_same(pipeline.submit(_frame(number), affines)(), _frame(number), affines)
    assert pipeline._graphs == captured  # no capture has failed


def test_frames_of_sizes_in_turns(pipeline: DevicePipeline) -> None:
    """Their memory is one that grows, and is read behind its first rows' shape."""
    for number in range(12):
        frame, affines = _frame(number, [(480, 640), (720, 800), (400, 480)][number % 3]), _affines(3, number)
        _assert_same(pipeline.submit(frame, affines)(), frame, affines)


def test_sizes_that_change_now_and_then(pipeline: DevicePipeline) -> None:
    """A graph of a size before must not be launched for the one now."""
    a, b, c = (480, 640), (600, 512), (720, 800)
    for number, size in enumerate((a, a, a, b, b, a, a, a, c, c, c, a, a, b, b, c, c)):
        frame, affines = _frame(number, size), _affines(1 + number % 2, number)
        _assert_same(pipeline.submit(frame, affines)(), frame, affines)


def test_two_frames_are_on_their_way(pipeline: DevicePipeline) -> None:
    frames = [_frame(seed) for seed in range(20)]
    affines = [_affines(1 + seed % 5, seed) for seed in range(20)]
    waiting = pipeline.submit(frames[0], affines[0])
    for i in range(1, 20):
        following = pipeline.submit(frames[i], affines[i])
        _assert_same(waiting(), frames[i - 1], affines[i - 1])
        waiting = following
    waiting()


def test_a_tensor_is_read_where_it_lies(pipeline: DevicePipeline) -> None:
    import torch

    for seed in range(6):
        frame, affines = _frame(seed), _affines(2, seed)
        tensor = torch.from_numpy(frame).cuda()
        _assert_same(pipeline.submit(tensor, affines)(), frame, affines)
        torch.cuda._sleep(50_000_000)  # cycles: what follows is still to come when it is handed over
        changed = 255 - tensor
        waiting = pipeline.submit(changed, affines)
        changed.zero_()  # it is ours again
        _assert_same(waiting(), 255 - frame, affines)
        with pytest.raises(ValueError, match="whose rows are packed"):
            pipeline.submit(tensor[:, ::2], affines)
        every_other = np.ascontiguousarray(frame[::2])
        _assert_same(pipeline.submit(tensor[::2], affines)(), every_other, affines)
        part = frame[40:440, 100:600]
        _assert_same(pipeline.submit(tensor[40:440, 100:600], affines)(), part.copy(), affines)


def test_joints_may_stay(pipeline: DevicePipeline) -> None:
    """Nothing waits for them; torch does, on a stream of its own."""
    import torch

    cases = [(_frame(seed), _affines(1 + seed % 11, seed)) for seed in range(12)]
    kept = [pipeline.submit(frame, affines, stay=True)() for frame, affines in cases]
    with torch.cuda.stream(torch.cuda.Stream()):
        taken = [[(torch.from_dlpack(a) + 0).cpu().numpy() for a in located[:3]] for located in kept]
    for (frame, affines), arrays in zip(cases, taken, strict=True):
        _assert_same(Located(*arrays, 0, 0, 0), frame, affines)
    for (frame, affines), located in zip(cases, kept, strict=True):
        _assert_same(Located(*(array.numpy() for array in located[:3]), 0, 0, 0), frame, affines)


def test_pycuda_in_the_primary_context(pipeline: DevicePipeline) -> None:
    gpuarray = pytest.importorskip("pycuda.gpuarray", reason="pycuda is not here", exc_type=ImportError)
    frame, affines = _frame(1), _affines(3, 1)
    with primary_context():
        kept = pipeline.submit(gpuarray.to_gpu(frame), affines, stay=True)()
        down = Located(*(as_gpuarray(array).get() for array in kept[:3]), 0, 0, 0)
    _assert_same(down, frame, affines)


def test_a_context_of_somebody_elses_is_left_as_it_was(pipeline: DevicePipeline) -> None:
    """As pycuda.autoinit makes one: the estimator's work is in the primary context all the same."""
    driver = pytest.importorskip("pycuda.driver", reason="pycuda is not here", exc_type=ImportError)
    driver.init()
    frame, affines = _frame(2), _affines(3, 2)
    context = driver.Device(0).make_context()
    try:
        _assert_same(pipeline.submit(frame, affines)(), frame, affines)
        assert driver.Context.get_current() == context
        driver.mem_alloc(64).free()
    finally:
        context.pop()
        context.detach()


def test_several_threads(pipeline: DevicePipeline) -> None:
    wrong: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for seed in range(thread, 60, 4):
                affines = _affines(1 + seed % 4, seed)
                _assert_same(pipeline.submit(_frame(seed), affines)(), _frame(seed), affines)
        except BaseException as error:  # noqa: B036  (shown by the main thread)
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("lent", [False, True], ids=["the host's", "the GPU's"])
def test_ten_thousand_frames_take_no_more_memory(pipeline: DevicePipeline, lent: bool) -> None:
    import torch

    frames, affines = [_frame(seed) for seed in range(4)], [_affines(1 + n, n) for n in range(4)]
    if lent:
        frames = [torch.from_numpy(frame).cuda() for frame in frames]

    def run(count: int) -> tuple[int, int]:
        for number in range(count):
            pipeline.submit(frames[number % 4], affines[number % 4])()
        return torch.cuda.mem_get_info()[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    free, resident = run(200)
    free_after, resident_after = run(10_000)
    assert free - free_after < 8 << 20
    assert resident_after - resident < 10_000  # kilobytes
