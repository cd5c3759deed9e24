"""The CUDA kernels against the reference, on the same tables as the CPU's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_cases import AFFINES, FACTORS, IMAGE_SHAPES, MAP_SHAPES, MAPS, METHODS, UNIT, bump, random_image

from lfpose_edge import ops
from lfpose_edge.ops import gpu, reference

Arrays = tuple[np.ndarray, ...]


def decode(
    cams: np.ndarray, config: ops.DecodeConfig, stream: Any, flips: Any = None
) -> tuple[Arrays, Arrays]:
    """What the GPU finds, and the reference."""
    n, k = cams.shape[:2]
    presence = np.linspace(-5, 5, n * k).reshape(n, k).astype(cams.dtype)
    affines = np.tile(UNIT, (n, 1, 1))
    options = {} if flips is None else {"flipped": flips[0], "flip_permutation": flips[1]}
    expected = reference.decode(
        *(a.astype(np.float32) for a in (cams, presence)), affines, config,
        **{key: value.astype(np.float32) if key == "flipped" else value for key, value in options.items()},
    )  # fmt: skip
    if flips is not None:
        options["flipped"] = gpu.on_device(flips[0], stream)
    arrays = (gpu.on_device(a, stream) for a in (cams, presence))
    found = gpu.decode(*arrays, affines, config, stream, **options)
    return tuple(a.numpy() for a in found), expected


def assert_same_joints(found: Arrays, expected: Arrays, config: ops.DecodeConfig) -> None:
    exact = config.method in ("none", "quarter")
    refined = max(1e-4, 3e-5 * config.stride if config.method == "dark" else 0)  # see ops/reference.py
    for name, a, b in zip(("keypoints", "scores", "presence"), found, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        tolerance = (0 if exact else refined) if name == "keypoints" else 1e-6
        assert np.abs(a - b).max(initial=0) <= tolerance, name


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", MAPS)
def test_maps(kind: str, method: ops.Method, dtype: type, stream: Any) -> None:
    for case, shape in enumerate(MAP_SHAPES.values()):
        with np.errstate(over="ignore"):
            cams = np.asarray(MAPS[kind](shape, np.random.default_rng(case)), np.float32).astype(dtype)
        for factor in FACTORS:
            config = ops.DecodeConfig(stride=factor, upsample=factor, method=method)
            assert_same_joints(*decode(cams, config, stream), config)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(64, 17, 48, 48), (8, 17, 64, 48), (1, 2, 120, 120)], ids=str)
def test_sizes_in_use(shape: tuple[int, ...], method: ops.Method, stream: Any) -> None:
    cams = bump(shape, np.random.default_rng(5)).astype(np.float32)
    config = ops.DecodeConfig(stride=4, method=method)
    assert_same_joints(*decode(cams, config, stream), config)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("method", METHODS)
def test_flipped(method: ops.Method, dtype: type, stream: Any) -> None:
    rng = np.random.default_rng(3)
    cams, flipped = (bump((2, 3, 11, 14), rng).astype(dtype) for _ in range(2))
    config = ops.DecodeConfig(stride=4, method=method)
    assert_same_joints(*decode(cams, config, stream, (flipped, np.array([2, 1, 0]))), config)


@pytest.mark.parametrize("affines", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("shape", IMAGE_SHAPES.values(), ids=IMAGE_SHAPES)
def test_crops(shape: tuple[int, ...], affines: object, stream: Any) -> None:
    image, matrices = random_image(shape), np.asarray(affines, np.float64)
    options = {"border": (9, 8, 7), "swap_rb": True, "mean": (10, 20, 30), "std": (1, 2, -0.5)}
    for size in ((19, 23), (16, 24), (1, 1)):
        with np.errstate(over="ignore", invalid="ignore"):
            expected = reference.preprocess(image, matrices, size, **options)
        found = gpu.preprocess(gpu.on_device(image, stream), matrices, size, stream, **options).numpy()
        assert np.abs((found - expected) * np.reshape(options["std"], (3, 1, 1))).max(initial=0) <= 2e-3
        half = gpu.preprocess(
            gpu.on_device(image, stream), matrices, size, stream, **options, dtype=np.float16
        ).numpy()
        np.testing.assert_allclose(half, expected, rtol=1e-3, atol=4e-3)


def test_quantised_crops(stream: Any) -> None:
    image, affines = random_image((27, 33, 3)), np.array(AFFINES["turned"], np.float64)
    options = {"mean": (127, 127, 127), "std": (128, 128, 128)}
    level = reference.preprocess(image, affines, (19, 23), **options) / 0.0075
    found = gpu.preprocess(
        gpu.on_device(image, stream), affines, (19, 23), stream, **options, dtype=np.int8, step=0.0075
    ).numpy()
    off = np.abs(found - np.clip(np.rint(level), -128, 127))
    assert off.max() <= 1
    assert not off[np.abs(level % 1 - 0.5) > 0.01].any()


@pytest.mark.parametrize("affines", AFFINES.values(), ids=AFFINES)
def test_nv12(affines: object, stream: Any) -> None:
    frame, matrices = random_image((42, 34)), np.asarray(affines, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = reference.preprocess(reference.nv12_to_bgr(frame), matrices, (19, 23))
    found = gpu.preprocess(gpu.on_device(frame, stream), matrices, (19, 23), stream, layout="nv12").numpy()
    assert np.abs(found - expected).max(initial=0) <= 2e-3


def test_a_graph_does_what_its_stream_was_given(stream: Any) -> None:
    from lfpose_edge._cuda import Decoder, DeviceArray

    cams = bump((2, 3, 12, 12), np.random.default_rng(0)).astype(np.float32)
    decoder = Decoder(4.0, 4, "dark", 1.0, 2, stream)
    rest = (np.zeros((2, 3), np.float32), np.tile(UNIT, (2, 1, 1)))
    inputs = [gpu.on_device(a, stream) for a in (cams, *rest)]
    shapes = ((2, 3, 2), (2, 3), (2, 3))
    outputs = [DeviceArray.empty(shape, np.dtype(np.float32), stream) for shape in shapes]
    stream.begin_capture()
    decoder.decode(*inputs, *outputs, stream)
    graph = stream.end_capture(decoder, *inputs, *outputs)
    del decoder
    for seed in (1, 2):
        cams = bump((2, 3, 12, 12), np.random.default_rng(seed)).astype(np.float32)
        inputs[0].upload(cams)
        graph.launch(stream)
        expected = reference.decode(cams, *rest, ops.DecodeConfig(4))
        np.testing.assert_allclose(outputs[0].numpy(), expected[0], atol=1e-4)


def test_rows_are_put_into_an_array(stream: Any) -> None:
    whole, rows = np.zeros((5, 3, 2), np.float32), np.arange(18, dtype=np.float32).reshape(3, 3, 2)
    there, part = gpu.on_device(whole, stream), gpu.on_device(rows, stream)
    there.put(part, 1, 2, stream)
    whole[1:3] = rows[:2]
    np.testing.assert_array_equal(there.numpy(), whole)
    for first, count in ((4, 2), (-1, 1), (0, 4), (0, -1)):
        with pytest.raises(ValueError, match="cannot put"):
            there.put(part, first, count, stream)
    with pytest.raises(TypeError, match="cannot put rows of float64"):
        there.put(gpu.on_device(rows.astype(np.float64), stream), 0, 1, stream)
    with pytest.raises(ValueError, match="cannot put"):
        there.put(gpu.on_device(rows[..., 0].copy(), stream), 0, 1, stream)


class Lender:
    """A library's array: DLPack and, like torch's, an interface without a stream, which must not be used."""

    def __init__(self, array: Any) -> None:
        self.array, self.asked = array, None

    def __dlpack__(self, stream: Any = None) -> Any:
        self.asked = stream
        return self.array.__dlpack__(stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    @property
    def __cuda_array_interface__(self) -> Any:
        pytest.fail("DLPack orders the streams, this does not")


class InterfaceLender:
    """A library's array without DLPack."""

    def __init__(self, array: Any) -> None:
        self.__cuda_array_interface__ = array.__cuda_array_interface__
        self.array = array


@pytest.mark.parametrize("lender", [Lender, InterfaceLender])
def test_an_array_is_lent_without_a_copy(lender: Any, stream: Any) -> None:
    """To another stream, which waits for the work on the array."""
    from lfpose_edge._cuda import DeviceArray, plan_crops, preprocess_crops

    second = gpu.open_device()
    images = [gpu.on_device(random_image((500, 400, 3), seed), stream) for seed in (0, 1)]
    crops = np.array(AFFINES["several"], np.float64).repeat(40, axis=0)
    plans = gpu.on_device(plan_crops(crops, (256, 256)), stream)  # kept: to free them would wait
    work = DeviceArray.empty((len(crops), 3, 256, 256), np.dtype(np.float32), stream)
    plain = (False, (0, 0, 0), (1, 1, 1), (0, 0, 0), 1.0)
    for number in range(200):  # another picture until the last, which is far from done when it is lent
        preprocess_crops(images[number == 199], plans, work, *plain, stream)
    lending = lender(work)
    lent = gpu.on_device(lending, second)
    found = lent.numpy()
    if lender is Lender:
        assert lending.asked == second.handle
    assert lent.__cuda_array_interface__["data"] == work.__cuda_array_interface__["data"]
    stream.synchronize()
    np.testing.assert_array_equal(found, work.numpy())
    with pytest.raises(ValueError, match="of another stream"):
        gpu.decode(lent, lent, UNIT[None], ops.DecodeConfig(4), stream)


def test_nobody_is_an_empty_result(stream: Any) -> None:
    empty = gpu.on_device(np.zeros((0, 3, 8, 8), np.float32), stream)
    presence = gpu.on_device(np.zeros((0, 3), np.float32), stream)
    found = gpu.decode(
        gpu.on_device(Lender(empty), stream), presence, UNIT[None][:0], ops.DecodeConfig(4), stream
    )
    assert [a.numpy().shape for a in found] == [(0, 3, 2), (0, 3), (0, 3)]


def test_affines_map_to_the_image(stream: Any) -> None:
    cams = bump((2, 3, 12, 12), np.random.default_rng(8)).astype(np.float32)
    affines = np.array([[[1.5, 0.2, 30], [-0.2, 1.5, 70]], [[-0.5, 0, 9], [0, 0.5, -4]]])
    presence = np.zeros((2, 3), np.float32)
    expected = reference.decode(cams, presence, affines, ops.DecodeConfig(4))
    arrays = (gpu.on_device(a, stream) for a in (cams, presence))
    found = gpu.decode(*arrays, affines, ops.DecodeConfig(4), stream)
    np.testing.assert_allclose(found[0].numpy(), expected[0], atol=2e-4)


def test_the_head_of_an_array_is_the_same_memory(stream: Any) -> None:
    memory = gpu.on_device(np.arange(24, dtype=np.uint8), stream)
    head = memory.head((4, 5))
    del memory
    np.testing.assert_array_equal(head.numpy(), np.arange(20).reshape(4, 5))
    with pytest.raises(ValueError, match=r"does not hold \(3, 7\) without gaps"):
        head.head((3, 7))


def test_an_output_may_lie_anywhere(stream: Any) -> None:
    """Also where no four pixels at once can be written."""
    from lfpose_edge._cuda import DeviceArray, plan_crops, preprocess_crops

    memory = DeviceArray.empty((1 + 3 * 16 * 16,), np.dtype(np.float32), stream)
    facts = dict(memory.__cuda_array_interface__)
    facts |= {"data": (facts["data"][0] + 4, False), "shape": (1, 3, 16, 16)}
    lender = type("Part", (), {"__cuda_array_interface__": facts, "memory": memory})()
    out = DeviceArray.lent_by(lender, stream)
    image, affines = random_image((27, 33, 3)), np.array(AFFINES["turned"], np.float64)
    plans = gpu.on_device(plan_crops(affines, (16, 16)), stream)
    three = (0, 0, 0), (1, 1, 1), (0, 0, 0)
    preprocess_crops(gpu.on_device(image, stream), plans, out, False, *three, 1.0, stream)
    expected = reference.preprocess(image, affines, (16, 16))
    assert np.abs(out.numpy() - expected).max() <= 2e-3


@pytest.mark.parametrize("order", [[0, 1, 10**8], [0, 1, -1], [0, 1, 1], [0, 1]], ids=str)
def test_a_permutation_is_checked(order: list[int], stream: Any) -> None:
    cams, presence = np.zeros((1, 3, 8, 8), np.float32), np.zeros((1, 3), np.float32)
    arrays = [gpu.on_device(a, stream) for a in (cams, presence, cams)]
    with pytest.raises(ValueError, match="each of 0..2 once"):
        gpu.decode(
            *arrays[:2], UNIT[None], ops.DecodeConfig(4), stream, flipped=arrays[2], flip_permutation=order
        )


def test_what_does_not_fit_is_an_error(stream: Any) -> None:
    from lfpose_edge._cuda import CudaError

    cams = np.zeros((1, 1, 400, 400), np.float32)
    with pytest.raises(CudaError, match="cannot decode"):
        decode(cams, ops.DecodeConfig(4), stream)
    arrays = [gpu.on_device(a, stream) for a in (cams[..., :8, :8].copy(), np.zeros((1, 1)))]
    with pytest.raises(TypeError, match="presence must be float32"):
        gpu.decode(*arrays, UNIT[None], ops.DecodeConfig(4), stream)
