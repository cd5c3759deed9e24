"""The way of a frame over a GPU, on doubles: the CPU's joints, graphs, engines that are kept, errors."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import re
import shutil
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import gpu_doubles
import numpy as np
import onnx
import pytest
from bundles import write_spot_bundle
from gpu_doubles import FakeTensorRt, Graph, TorchLike

import lfpose_edge
from lfpose_edge import PoseEstimator
from lfpose_edge.backends import engine_cache, tensorrt_api
from lfpose_edge.backends.engine_files import Fingerprint, check_engine, fingerprint_of, write_engine
from lfpose_edge.cli.bench import measure
from lfpose_edge.errors import BackendUnavailable, BundleError, EngineMismatch, SourceError
from lfpose_edge.geometry import crop_affines
from lfpose_edge.pipeline.device import KEPT
from lfpose_edge.results import StageTimings
from lfpose_edge.zoo import bundle_path

Make = Callable[..., PoseEstimator]
BOXES = [[10, 20, 90, 120], [60, 40, 150, 160], [100, 10, 200, 200]]


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    """A machine with a GPU and TensorRT."""
    module, cuda = FakeTensorRt(), gpu_doubles.cuda_module()
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "lfpose_edge._cuda", cuda)
    monkeypatch.setattr(lfpose_edge, "_cuda", cuda, raising=False)
    monkeypatch.setattr(Graph, "launched", 0)
    return module


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_spot_bundle(tmp_path / "spot")


@pytest.fixture
def on_gpu(tensorrt: FakeTensorRt, bundle: Path, tmp_path: Path) -> Make:
    def make(**options: Any) -> PoseEstimator:
        return PoseEstimator(
            bundle, **{"backend": "tensorrt", "precision": "fp32", "cache_dir": tmp_path / "cache", **options}
        )

    return make


@pytest.fixture
def on_cpu(bundle: Path) -> PoseEstimator:
    return PoseEstimator(bundle, backend="onnxruntime")


def _picture(seed: int, size: tuple[int, ...] = (210, 220, 3)) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-size[0] // 20), -(-size[1] // 20), *size[2:]))
    return coarse.astype(np.uint8).repeat(20, axis=0).repeat(20, axis=1)[: size[0], : size[1]].copy()


def _assert_same(found: Any, expected: Any, pixels: float = 2e-3, probability: float = 1e-4) -> None:
    np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=pixels)
    np.testing.assert_allclose(found.scores, expected.scores, atol=probability)
    np.testing.assert_allclose(found.presence, expected.presence, atol=probability)


def test_joints_are_where_the_cpu_finds_them(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pose = on_gpu()
    for count in (1, 2, 3, 3, 1, 3):  # again with fewer: what was there before must not show
        for seed in range(3):
            picture = _picture(seed)
            _assert_same(pose(picture, BOXES[:count]), on_cpu(picture, BOXES[:count]))
    assert pose(picture, BOXES).backend == "tensorrt 10.3.0 cuda:0 (Tester 4000) fp32"


@pytest.mark.parametrize("size", [(100, 80), (100, 80, 1), (64, 90, 3), (33, 47, 4)], ids=str)
def test_every_kind_of_image(size: tuple[int, ...], on_gpu: Make, on_cpu: PoseEstimator) -> None:
    box = [[5, 5, 30, 30]]
    _assert_same(on_gpu()(_picture(1, size), box), on_cpu(_picture(1, size), box))


def test_more_people_than_a_batch_holds(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    boxes = [[x, 10, x + 40, 90] for x in range(0, 110, 10)]
    _assert_same(on_gpu(max_batch=4)(_picture(3), boxes), on_cpu(_picture(3), boxes))


def test_from_the_second_frame_on_it_is_a_graph(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pose = on_gpu()
    launched = []
    for seed in range(5):
        _assert_same(pose(_picture(seed), BOXES), on_cpu(_picture(seed), BOXES))
        launched.append(Graph.launched)
    assert launched == [0, 1, 2, 3, 4]


def test_a_frame_of_the_hosts_is_cut_within_its_graph(
    on_gpu: Make, on_cpu: PoseEstimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pose, module = on_gpu(), sys.modules["lfpose_edge._cuda"]
    within = []
    cut = module.preprocess_crops

    def noted(*arguments: Any) -> None:
        within.append(pose._pipeline._compute.captured is not None)
        cut(*arguments)

    monkeypatch.setattr(module, "preprocess_crops", noted)
    for seed in range(4):
        _assert_same(pose(_picture(seed), BOXES), on_cpu(_picture(seed), BOXES))
    assert within == [False, True]  # and then no more


@pytest.mark.parametrize("counts", [(1,), (1, 2)], ids=["one person", "one or two"])
def test_sizes_that_change_now_and_then(counts: tuple[int, ...], on_gpu: Make, on_cpu: PoseEstimator) -> None:
    """A graph of a size before must not be launched for the one now, nor its memory be kept."""
    pose = on_gpu()
    a, b, c = (210, 220, 3), (240, 202, 3), (300, 260, 3)
    memories = []
    for seed, size in enumerate((a, a, b, b, b, c, c, a, a)):
        boxes = BOXES[: counts[seed % len(counts)]]
        _assert_same(pose(_picture(seed, size), boxes), on_cpu(_picture(seed, size), boxes))
        (slot,) = pose._pipeline._free
        memories.append(weakref.ref(slot._memory[0]))
        gc.collect()
        assert len({id(memory()) for memory in memories if memory() is not None}) == 1


def test_a_network_that_fails_leaves_nothing_running_and_is_made_ready_again(
    tensorrt: FakeTensorRt, on_gpu: Make, on_cpu: PoseEstimator
) -> None:
    """Nobody reads the caller's tensor any more, and the first run that works is no capture."""
    pose, tensor = on_gpu(), TorchLike(_picture(1))
    pipeline = pose._pipeline
    tensorrt.refuses = lambda stream: True
    for _ in range(3):
        with pytest.raises(BackendUnavailable):
            pose(tensor, BOXES)
        assert pipeline._compute.work == pipeline._uploads.work == []
        assert len(pipeline._free) == 1
    contexts = tensorrt.contexts
    capturing = []

    def noted(stream: gpu_doubles.Stream) -> bool:
        capturing.append(stream.captured is not None)
        return False

    tensorrt.refuses = noted
    for seed in range(3):
        _assert_same(pose(TorchLike(_picture(seed)), BOXES), on_cpu(_picture(seed), BOXES))
    assert capturing == [False, True]
    assert tensorrt.contexts == contexts


def test_a_network_that_cannot_be_captured_is_run_stage_by_stage(
    tensorrt: FakeTensorRt, on_gpu: Make, on_cpu: PoseEstimator, caplog: pytest.LogCaptureFixture
) -> None:
    tensorrt.refuses = lambda stream: stream.captured is not None
    pose = on_gpu()
    with caplog.at_level(logging.WARNING):
        for seed in range(4):
            _assert_same(pose(_picture(seed), BOXES), on_cpu(_picture(seed), BOXES))
    assert Graph.launched == 0
    assert len([r for r in caplog.records if r.message.startswith("no CUDA graph")]) == 1


def test_a_tensor_is_nobodys_after_its_poses(on_gpu: Make) -> None:
    pose = on_gpu()
    lent = []
    for seed in range(4):
        tensor = TorchLike(_picture(seed))
        lent.append(weakref.ref(tensor))
        pose(tensor, BOXES, to="device" if seed % 2 else "host")
        del tensor
    gc.collect()
    assert [tensor() for tensor in lent] == [None] * 4


def test_a_tensor_without_its_columns_is_refused(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pose, picture, box = on_gpu(), _picture(1), [[5, 5, 90, 90]]
    with pytest.raises(ValueError, match="whose rows are packed"):
        pose(TorchLike(picture[:, ::2]), box)
    _assert_same(pose(TorchLike(picture[::2]), box), on_cpu(picture[::2].copy(), box))


def test_nobody_stays_on_the_gpu_and_the_frame_is_no_longer_read(on_gpu: Make) -> None:
    pose = on_gpu(detector=lambda image: np.zeros((0, 4)))
    assert len(pose(_picture(1), to="device")) == 0
    assert pose._pipeline._uploads.work == []


def test_frames_of_sizes_in_turns_are_cut_and_a_graph(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pose = on_gpu()
    sizes = [(200, 150, 3), (300, 200, 3), (120, 110, 3)]
    for seed in range(6):
        picture = _picture(seed, sizes[seed % 3])
        _assert_same(pose(picture, BOXES), on_cpu(picture, BOXES))
        if seed == 2:
            allocated = gpu_doubles.DeviceArray.allocations
    assert gpu_doubles.DeviceArray.allocations == allocated
    assert Graph.launched == 5


def test_without_graphs_the_stages_go_one_by_one(
    on_gpu: Make, on_cpu: PoseEstimator, caplog: pytest.LogCaptureFixture
) -> None:
    pose = on_gpu()
    for stream in gpu_doubles.STREAMS.values():
        stream.refuses_capture = True
    with caplog.at_level(logging.WARNING):
        for seed in range(6):
            _assert_same(pose(_picture(seed), BOXES), on_cpu(_picture(seed), BOXES))
    assert Graph.launched == 0
    assert [r.message for r in caplog.records][1:] == [
        "no CUDA graph, stages are launched one by one: cannot capture a graph: not supported"
    ]


def test_below_10_there_are_no_graphs(tensorrt: FakeTensorRt, on_gpu: Make, on_cpu: PoseEstimator) -> None:
    """Only one context can run crops of a free number there."""
    tensorrt.__version__ = "8.6.1"
    pose = on_gpu()
    for seed in range(6):
        boxes = BOXES[: 1 + seed % 3]
        _assert_same(pose(_picture(seed), boxes), on_cpu(_picture(seed), boxes))
    maps, expected = (p.activation_maps(_picture(1), BOXES) for p in (pose, on_cpu))
    np.testing.assert_allclose(maps.cams, expected.cams, atol=1e-3)
    assert Graph.launched == 0


def test_a_stream_keeps_the_order_and_a_frame_ahead(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pictures = [_picture(seed) for seed in range(7)]
    read = []

    def source() -> Any:
        for number, picture in enumerate(pictures):
            read.append(number)
            yield picture

    pose, seen = on_gpu(), []
    for number, result in enumerate(pose.stream(source())):
        _assert_same(result, on_cpu(pictures[number]))
        seen.append(len(read))
    assert seen == [2, 3, 4, 5, 6, 7, 7]


def test_a_stream_that_is_left_gives_its_memory_back(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pose = on_gpu()
    for _ in range(3):
        stream = pose.stream([_picture(seed) for seed in range(5)])
        next(stream)
        stream.close()
    _assert_same(pose(_picture(1), BOXES), on_cpu(_picture(1), BOXES))


def test_streams_side_by_side_wait_for_nobody(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pose = on_gpu()
    streams = [pose.stream([_picture(10 * s + n) for n in range(4)]) for s in range(3)]
    for number, results in enumerate(zip(*streams, strict=True)):
        for s, result in enumerate(results):
            _assert_same(result, on_cpu(_picture(10 * s + number)))
    assert number == 3


def test_a_source_may_fill_the_same_tensor_again(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    tensor = TorchLike(_picture(0))

    def source() -> Any:
        for seed in range(5):
            tensor.memory[:] = _picture(seed)
            yield tensor

    for seed, result in enumerate(on_gpu().stream(source())):
        _assert_same(result, on_cpu(_picture(seed)))


def test_several_threads_share_an_estimator(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pose = on_gpu()
    expected = [on_cpu(_picture(seed), BOXES) for seed in range(4)]
    wrong: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for _ in range(5):
                _assert_same(pose(_picture(seed), BOXES), expected[seed])
        except BaseException as error:  # noqa: B036  (shown by the main thread)
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_a_tensor_on_the_gpu_is_read_where_it_lies(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    picture = _picture(5)
    pose = on_gpu()
    for _ in range(3):
        _assert_same(pose(TorchLike(picture), BOXES), on_cpu(picture, BOXES))
    _assert_same(pose(TorchLike(picture)), on_cpu(picture))
    with pytest.raises(TypeError, match=r"in a GPU's memory, and onnxruntime .* reads the host's"):
        on_cpu(TorchLike(picture), BOXES)
    with pytest.raises(TypeError, match="a detector reads the host's: give boxes"):
        on_gpu(detector=lambda image: np.array(BOXES))(TorchLike(picture))
    with pytest.raises(TypeError, match="uint8"):
        pose(TorchLike(picture.astype(np.float32)), BOXES)
    part = TorchLike(picture[20:180, 30:200])  # rows of a larger image
    assert not part.memory.flags.c_contiguous
    for _ in range(3):
        _assert_same(pose(part, BOXES[:2]), on_cpu(part.memory.copy(), BOXES[:2]))


def test_behind_the_cut_tensors_on_the_gpu_are_graphs_too(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    """One graph serves them all, wherever they lie; the host's frames have their own."""
    pose = on_gpu()
    launched = []
    for seed in range(8):
        picture = _picture(seed, (100 + 10 * seed, 120, 3)) if seed < 5 else _picture(seed)
        frame = TorchLike(picture)
        _assert_same(pose(frame if seed < 5 else picture, BOXES), on_cpu(picture, BOXES))
        launched.append(Graph.launched)
    assert launched == list(range(8))


def test_a_tensor_is_waited_for_until_it_is_cut_and_no_longer(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pose = on_gpu()
    tensor = TorchLike(_picture(1))
    kept = pose(tensor, BOXES, to="device")
    network_and_decode = pose._pipeline._compute.work
    assert network_and_decode
    tensor.memory[:] = 0  # it is ours again
    _assert_same(kept.to_host(), on_cpu(_picture(1), BOXES))
    assert network_and_decode == []


def test_a_tensor_is_one_image_and_not_its_rows(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    pose, tensor = on_gpu(), TorchLike(_picture(5))
    (result,) = pose.stream(tensor)
    _assert_same(result, on_cpu(tensor.memory))
    with pytest.raises(TypeError, match="predict takes several images"):
        pose.predict(tensor)
    with pytest.raises(TypeError, match=r"maps are made of images in the host's memory: give image.cpu\(\)"):
        pose.activation_maps(tensor)
    with pytest.raises(TypeError, match="says neither its shape nor its dtype"):
        pose(SimpleNamespace(__dlpack_device__=lambda: (2, 0)), BOXES)


def test_poses_may_stay_on_the_gpu(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    """Nothing waits for them: their frames' memory is used again by the ones that follow."""
    pose = on_gpu(max_batch=2)
    kept = [pose(_picture(seed), BOXES[: 1 + seed % 3], to="device") for seed in range(7)]
    kept.append(pose(TorchLike(_picture(7)), BOXES, to="device"))
    found = pose(_picture(8), BOXES)  # and one that comes down, between
    assert [len(poses) for poses in kept] == [1, 2, 3, 1, 2, 3, 1, 3]
    for seed, poses in enumerate(kept):
        expected = on_cpu(_picture(seed), BOXES[: len(poses)])
        assert isinstance(poses.keypoints, gpu_doubles.DeviceArray)
        down = poses.to_host()
        _assert_same(down, expected)
        np.testing.assert_array_equal(down.boxes, expected.boxes)
        assert (down.image_size, down.skeleton.name) == (expected.image_size, expected.skeleton.name)
    _assert_same(found, on_cpu(_picture(8), BOXES))


def test_poses_that_stay_are_taken_over_beside_a_capture(on_gpu: Make, on_cpu: PoseEstimator) -> None:
    """Another thread's frame may be at that: its stream is nobody's who has poses."""
    pose = on_gpu()
    poses = pose(_picture(1), BOXES, to="device")
    compute = pose._pipeline._compute
    compute.begin_capture()
    _assert_same(poses.to_host(), on_cpu(_picture(1), BOXES))
    compute.end_capture()


def test_more_frames_on_their_way_than_memory_is_kept_for(
    tensorrt: FakeTensorRt, on_gpu: Make, on_cpu: PoseEstimator
) -> None:
    pipeline, expected = (p._pipeline for p in (on_gpu(), on_cpu))
    affines = crop_affines(np.array(BOXES, np.float64), (64, 48), padding=1.25)
    pictures = [_picture(seed) for seed in range(KEPT + 3)]
    made = 0
    for count in (KEPT + 3, KEPT, KEPT):
        waits = [pipeline.submit(picture, affines, stay=True) for picture in pictures[:count]]
        kept = [wait() for wait in waits]
        for picture, located in zip(pictures, kept, strict=False):
            found = expected.submit(picture, affines)()
            np.testing.assert_allclose(located.keypoints.numpy(), found.keypoints, atol=2e-3)
        made = tensorrt.contexts if count > KEPT else made
    assert tensorrt.contexts == made  # those that were kept did


def test_results_that_are_collected_at_any_moment_stop_nothing(
    on_gpu: Make, on_cpu: PoseEstimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector may end a stream that was left, in the middle of a frame of the same thread."""
    pose = on_gpu()
    left = pose.stream([_picture(seed) for seed in range(5)])
    next(left)
    put = type(pose._pipeline)._frame_on_gpu
    monkeypatch.setattr(type(pose._pipeline), "_frame_on_gpu", lambda *all_: (left.close(), put(*all_))[1])
    worker = threading.Thread(
        target=lambda: _assert_same(pose(_picture(2)), on_cpu(_picture(2))), daemon=True
    )
    worker.start()
    worker.join(30)
    assert not worker.is_alive()


def test_where_poses_stay_nobody_is_an_empty_array(on_gpu: Make) -> None:
    poses = on_gpu(detector=lambda image: np.zeros((0, 4)))(_picture(0), to="device")
    assert (len(poses), poses.to_host().keypoints.shape[0]) == (0, 0)


def test_where_there_is_no_gpu_poses_cannot_stay(on_cpu: PoseEstimator) -> None:
    with pytest.raises(BackendUnavailable, match=r"onnxruntime .* runs on no GPU where poses could stay"):
        on_cpu(_picture(0), BOXES, to="device")
    with pytest.raises(ValueError, match="to must be one of host, device, got 'gpu'"):
        on_cpu(_picture(0), BOXES, to="gpu")


def test_frames_of_a_jetsons_camera(on_gpu: Make, bundle: Path) -> None:
    """NV12 goes up as it is; a detector and a CPU get it as BGR, rounded to whole grey levels."""
    asked = []

    def detector(image: np.ndarray) -> np.ndarray:
        asked.append(image.shape)
        return np.array(BOXES, np.float32)

    frame = _picture(4, (315, 220))
    bgr = cv2.cvtColor(frame, cv2.COLOR_YUV2BGR_NV12)
    expected = PoseEstimator(bundle, backend="onnxruntime")(bgr, BOXES)
    on_cpu = PoseEstimator(bundle, backend="onnxruntime", color="nv12", detector=detector)
    pose = on_gpu(color="nv12", detector=detector)
    for estimator in (on_cpu, pose, pose, pose):
        found = estimator(frame)
        _assert_same(found, expected, 0.03, 5e-3)
        assert found.image_size == (210, 220)
    assert asked == [(210, 220, 3)] * 4
    _assert_same(pose(TorchLike(frame), BOXES), expected, 0.03, 5e-3)
    maps, others = (p.activation_maps(frame, BOXES).cams for p in (on_cpu, pose))
    np.testing.assert_allclose(maps, others, atol=1e-3)


@pytest.mark.parametrize("shape", [(210, 220, 3), (211, 220), (210, 221), (0, 220)], ids=str)
def test_what_is_no_frame_of_a_jetsons_camera(shape: tuple[int, ...], bundle: Path) -> None:
    pose = PoseEstimator(bundle, backend="onnxruntime", color="nv12")
    with pytest.raises(SourceError, match=r"an NV12 frame is \(3 H / 2, W\).*got shape"):
        pose(np.zeros(shape, np.uint8))


def test_an_engine_is_built_once(
    tensorrt: FakeTensorRt, on_gpu: Make, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        on_gpu().close()
        on_gpu().close()
    assert tensorrt.builds == 1
    assert [r.message.partition(": ")[0] for r in caplog.records] == [
        f"building the fp32 engine of {bundle / 'model.onnx'} for Tester 4000 with tensorrt 10.3.0"
    ]
    (engine,) = (tmp_path / "cache" / "engines").glob("*.engine")
    facts, _ = check_engine(engine)
    assert (facts["gpu"], facts["batches"]) == ("Tester 4000", [1, 4, 16])


@pytest.mark.parametrize("change", ["version", "batch", "damage", "no sidecar", "refused by TensorRT"])
def test_an_engine_that_does_not_fit_is_built_anew(
    change: str, tensorrt: FakeTensorRt, on_gpu: Make, tmp_path: Path
) -> None:
    on_gpu().close()
    options: dict[str, Any] = {}
    (engine,) = (tmp_path / "cache" / "engines").glob("*.engine")
    if change == "version":
        tensorrt.__version__ = "10.4.0"
    elif change == "batch":
        options = {"max_batch": 8}
    elif change == "damage":
        engine.write_bytes(b"plan:nothing")
    elif change == "refused by TensorRT":  # of another chip of the same name
        facts = json.loads(engine.with_suffix(".json").read_text())
        write_engine(engine.parent, fingerprint_of(facts, engine), b"of another chip")
    else:
        engine.with_suffix(".json").unlink()
    on_gpu(**options).close()
    assert tensorrt.builds == 2
    on_gpu(**options).close()
    assert tensorrt.builds == 2


def test_an_engine_of_the_bundle_is_taken_first(
    tensorrt: FakeTensorRt, on_gpu: Make, bundle: Path, tmp_path: Path
) -> None:
    on_gpu().close()
    (tmp_path / "cache" / "engines").rename(bundle / "engines")
    on_gpu().close()
    assert tensorrt.builds == 1


def test_an_engine_of_the_bundle_may_have_other_options_and_a_larger_batch(
    tensorrt: FakeTensorRt, on_gpu: Make, bundle: Path, tmp_path: Path
) -> None:
    on_gpu().close()
    (engine,) = (tmp_path / "cache" / "engines").glob("*.engine")
    facts, plan = check_engine(engine)
    built = fingerprint_of(facts, engine)
    for change in ({"options": "dla 0"}, {"gpu": "SM86"}, {"batches": (1, 8, 32)}):
        write_engine(bundle / "engines", replace(built, **change), plan)
        for file in (tmp_path / "cache" / "engines").iterdir():
            file.unlink()
        on_gpu().close()
        assert tensorrt.builds == 1
        shutil.rmtree(bundle / "engines")
    write_engine(bundle / "engines", replace(built, batches=(1, 4, 8)), plan)
    on_gpu().close()
    assert tensorrt.builds == 2


def test_processes_that_start_at_once_build_one_engine(tensorrt: FakeTensorRt, on_gpu: Make) -> None:
    threads = [threading.Thread(target=lambda: on_gpu().close()) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert tensorrt.builds == 1


def test_what_the_engine_refuses_is_named(
    tensorrt: FakeTensorRt, on_gpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendUnavailable, match="runs on device 'cuda'"):
        on_gpu(device="cpu")
    with pytest.raises(BackendUnavailable, match="no device cuda:3"):
        on_gpu(device="cuda:3")
    with pytest.raises(BackendUnavailable, match="fp32, fp16 or int8, not 'bf16'"):
        on_gpu(precision="bf16")
    pose = on_gpu()
    with pytest.raises(BackendUnavailable, match="the GPU fails: cannot allocate .*: out of memory"):
        pose(np.zeros((20000, 20000, 3), np.uint8), BOXES)
    pose(_picture(0), BOXES)  # and it goes on
    pose(_picture(0), BOXES)

    def refusing(log: Any) -> Any:
        log.errors.append("wrong GPU")
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: None)

    monkeypatch.setattr(tensorrt, "Runtime", refusing)
    with pytest.raises(EngineMismatch, match="cannot read the engine: wrong GPU"):
        on_gpu()


def test_from_11_on_half_precision_is_the_files(tensorrt: FakeTensorRt, on_gpu: Make) -> None:
    tensorrt.__version__ = "11.4.0"
    assert "fp32" in on_gpu(precision="auto").describe()["backend"]
    with pytest.raises(BackendUnavailable, match="lfpose-export MODEL --out BUNDLE --engine"):
        on_gpu(precision="fp16")


def test_auto_takes_the_gpu(tensorrt: FakeTensorRt, on_gpu: Make) -> None:
    assert on_gpu(backend="auto").describe()["backend"].startswith("tensorrt 10.3.0 cuda:0")
    assert on_gpu(backend="auto", device="cpu").describe()["backend"].split()[0] in (
        "openvino",
        "onnxruntime",
    )


def test_from_11_on_an_engine_in_half_that_came_with_the_bundle_is_taken(
    tensorrt: FakeTensorRt, on_gpu: Make, bundle: Path, tmp_path: Path
) -> None:
    tensorrt.__version__ = "11.4.0"
    on_gpu().close()
    (engine,) = (tmp_path / "cache" / "engines").glob("*.engine")
    facts, plan = check_engine(engine)
    write_engine(bundle / "engines", replace(fingerprint_of(facts, engine), precision="fp16"), plan)
    assert on_gpu(precision="auto").describe()["backend"].endswith("fp16")


@pytest.mark.parametrize("content", [b"damaged", b"foreign"])
def test_a_timing_cache_that_does_not_fit_is_begun_anew(
    content: bytes, tensorrt: FakeTensorRt, on_gpu: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "cache" / "engines"
    folder.mkdir(parents=True)
    timings = folder / "tensorrt-10.3.0-SM86.timing"
    timings.write_bytes(content)
    on_gpu().close()
    assert tensorrt.timing_caches[-1] == b""
    assert timings.read_bytes() == b"timings"


def test_a_timing_cache_that_cannot_be_written_loses_no_engine(
    on_gpu: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tensorrt_api, "write_bytes_whole", _full_disk)
    with caplog.at_level(logging.WARNING):
        on_gpu().close()
    assert "timing cache" in caplog.text
    assert "No space left" in caplog.text


def test_an_engine_of_other_types_is_refused(tensorrt: FakeTensorRt, on_gpu: Make) -> None:
    tensorrt.float32 = "half"
    with pytest.raises(BundleError, match=r"the engine's crops are .*, the bundle's float32"):
        on_gpu()


def test_a_gpu_without_memory_for_an_engine_builds_no_other(
    tensorrt: FakeTensorRt, on_gpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu().close()

    def full(log: Any) -> Any:
        log.errors.append("Requested amount of GPU memory: CUDA out of memory")
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: None)

    monkeypatch.setattr(tensorrt, "Runtime", full)
    with pytest.raises(BackendUnavailable, match="out of memory"):
        on_gpu()
    assert tensorrt.builds == 1


def test_a_gpu_that_goes_away_is_named_and_hides_nothing(
    on_gpu: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lost(self: Any) -> None:
        message = "cannot finish the work on the device: unspecified launch failure (cudaErrorLaunchFailure)"
        raise gpu_doubles.CudaError(message)

    pose = on_gpu()
    kept = pose(_picture(0), BOXES, to="device")
    with pytest.raises(KeyError, match="mine"), pose:  # noqa: PT012
        monkeypatch.setattr(gpu_doubles.Stream, "synchronize", lost)
        with pytest.raises(BackendUnavailable, match="the GPU fails: .*launch failure"):
            kept.to_host()
        raise KeyError("mine")  # noqa: EM101
    assert "closing after KeyError: the GPU fails" in caplog.text
    assert pose._pipeline._free == []


def _not_starting(log: Any) -> Any:
    message = "pybind11::init(): factory function returned nullptr"
    raise TypeError(message)


def _no_stream(device: int = 0) -> Any:
    message = "cannot create a stream: all CUDA-capable devices are busy"
    raise gpu_doubles.CudaError(message)


def _no_facts(device: int = 0) -> Any:
    message = "cannot ask for the device's properties: unknown error"
    raise gpu_doubles.CudaError(message)


@pytest.mark.parametrize(
    "fault", ["does not start", "no stream", "no facts", "old GPU", "cache", "namespace"]
)
def test_auto_passes_a_gpu_over_that_does_not_work(
    fault: str,
    tensorrt: FakeTensorRt,
    on_gpu: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options: dict[str, Any] = {}
    if fault == "does not start":
        monkeypatch.setattr(tensorrt, "Builder", _not_starting)
        words = "does not start"
    elif fault == "no stream":
        monkeypatch.setattr(sys.modules["lfpose_edge._cuda"], "Stream", _no_stream)
        words = "cuda:0 cannot be used: cannot create a stream"
    elif fault == "no facts":
        monkeypatch.setattr(sys.modules["lfpose_edge._cuda"], "device_facts", _no_facts)
        words = "the GPU fails: cannot ask for the device's properties"
    elif fault == "old GPU":
        old = {"name": "Tesla V100", "compute_capability": (7, 0)}
        monkeypatch.setattr(sys.modules["lfpose_edge._cuda"], "device_facts", lambda device: old)
        words = "Tesla V100 is of compute capability (7, 0): 7.5 or later is needed"
    elif fault == "cache":
        monkeypatch.setattr(engine_cache, "write_engine", _full_disk)
        words = "No space left"
    else:
        monkeypatch.delattr(tensorrt, "__version__")
        words = "tensorrt is a folder here"
    with caplog.at_level(logging.INFO):
        pose = on_gpu(backend="auto", **options)
    assert pose.describe()["backend"].split()[0] in ("openvino", "onnxruntime")
    assert words in caplog.text
    with pytest.raises((BackendUnavailable, OSError), match=re.escape(words)):
        on_gpu()


def _full_disk(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_weights_are_constants_before_a_build() -> None:
    file = bundle_path("lfpose-lite") / "model.onnx"
    assert any(node.op_type == "Cast" for node in onnx.load(file).graph.node)
    folded = onnx.load_from_string(engine_cache.with_folded_weights(file))
    onnx.checker.check_model(folded)
    assert [node.name for node in folded.graph.node if node.op_type == "Cast"] == []
    constants = {tensor.name for tensor in folded.graph.initializer}
    convolutions = [node for node in folded.graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 50
    assert all(node.input[1] in constants for node in convolutions)
    assert {node.domain for node in folded.graph.node} == {""}


@pytest.fixture
def torch_program(
    tensorrt: FakeTensorRt, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Writes a program of Torch-TensorRT for the machine that has one."""
    for name, module in gpu_doubles.torch_modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    model = (bundle / "model.onnx").read_bytes()
    fitting = Fingerprint(
        hashlib.sha256(model).hexdigest(), "torch_tensorrt", "2.11.0", "Tester 4000", "fp16", (1, 4, 16)
    )

    def write(**change: Any) -> Path:
        path = bundle / "engines" / "program.ep"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(model)
        facts = {**asdict(replace(fitting, **change)), "engine_sha256": fitting.model_sha256}
        path.with_suffix(".json").write_text(json.dumps(facts))
        return path

    return write


def test_a_program_of_torch_tensorrt(
    torch_program: Callable[..., Path], on_gpu: Make, on_cpu: PoseEstimator
) -> None:
    torch_program()
    pose = on_gpu(backend="torch_tensorrt", precision="auto")
    for seed in range(4):
        boxes = BOXES[: 1 + seed % 3]
        _assert_same(pose(_picture(seed), boxes), on_cpu(_picture(seed), boxes))
    assert pose.describe()["backend"] == "torch_tensorrt 2.11.0 cuda:0 (Tester 4000) fp16"
    assert on_gpu(backend="auto").describe()["backend"].startswith("tensorrt ")
    pose.close()
    with pytest.raises(RuntimeError, match="closed"):
        pose(_picture(0), BOXES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gpu": "Orin"}, "gpu: Tester 4000, not Orin"),
        ({"version": "2.8.0"}, "version: 2.11.0, not 2.8.0"),
        ({"batches": (1, 4, 8)}, r"batches: \(1, 4, 16\), not \(1, 4, 8\)"),
        ({"model_sha256": "0" * 64}, "model_sha256: "),
        (None, "program.ep is damaged"),
    ],
    ids=["gpu", "version", "batch", "model", "damage"],
)
def test_a_program_that_does_not_fit_is_not_run(
    change: dict[str, Any] | None, words: str, torch_program: Callable[..., Path], on_gpu: Make
) -> None:
    path = torch_program(**(change or {}))
    if change is None:
        path.write_bytes(b"half a program")
    with pytest.raises(BackendUnavailable, match=f"{words}.*--engine torch-tensorrt makes one"):
        on_gpu(backend="torch_tensorrt", precision="auto")


def test_what_torch_tensorrt_refuses_is_named(
    torch_program: Callable[..., Path], on_gpu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendUnavailable, match="for this GPU: it has none"):
        on_gpu(backend="torch_tensorrt", precision="auto")
    with pytest.raises(BackendUnavailable, match="runs precision fp16, not 'int8'"):
        on_gpu(backend="torch_tensorrt", precision="int8")
    with pytest.raises(BackendUnavailable, match="runs on device 'cuda'"):
        on_gpu(backend="torch_tensorrt", precision="auto", device="cpu")
    monkeypatch.setattr(sys.modules["torch"].cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match="torch sees no GPU"):
        on_gpu(backend="torch_tensorrt", precision="auto")
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(BackendUnavailable, match="pip install torch-tensorrt"):
        on_gpu(backend="torch_tensorrt", precision="auto")


def test_whole_frames_are_timed_from_the_host_and_from_the_gpu(
    tensorrt: FakeTensorRt, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LFPOSE_CACHE", str(tmp_path / "cache"))
    rows = measure(str(bundle), thread_counts=[1], persons=[2], seconds=0.01, others={"other": _nobody})
    ways = [(row["backend"].split()[0], row["frames_on_gpu"]) for row in rows]
    assert ways.count(("tensorrt", True)) == ways.count(("tensorrt", False)) == 2  # fp32 and fp16
    assert ("onnxruntime", True) not in ways
    assert ways.count(("other", False)) == 1
    assert all(row["frames"] >= 4 and row["total_p50_ms"] > 0 for row in rows)


def _nobody(frame: object, boxes: object) -> SimpleNamespace:
    return SimpleNamespace(timings=StageTimings())


def test_closing_frees_and_ends(on_gpu: Make) -> None:
    pose = on_gpu()
    pose(_picture(0), BOXES)
    pose.close()
    pose.close()
    with pytest.raises(RuntimeError, match="closed"):
        pose(_picture(0), BOXES)
