"""How the range of a tensor is chosen from what was seen of it."""

from __future__ import annotations

import numpy as np
import pytest
from lfpose_edge.export.quantize import Grid
from lfpose_edge.export.ranges import METHODS, Observation, RangeMethod, choose_range, range_method

from lfpose_edge.errors import CalibrationError


@pytest.mark.parametrize("method", METHODS)
def test_a_range_covers_the_bulk_and_zero(method: RangeMethod) -> None:
    rng = np.random.default_rng(0)
    values = np.abs(rng.normal(0, 1, 200_000)).astype(np.float32) + 0.5
    values[0] = 1000.0  # an outlier that a finer grid should give up
    low, high = choose_range(Observation(float(values.min()), 1000.0, values), method)
    assert low == 0.0
    assert np.mean(values <= high) > 0.99
    if method == "percentile":
        assert high < 6
    if method == "minmax":
        assert high == 1000.0


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_tensor_has_a_range(method: RangeMethod) -> None:
    zeros = Observation(0.0, 0.0, np.zeros(1000, np.float32))
    assert choose_range(zeros, method) == (0.0, 0.0)
    assert np.isfinite(Grid.over(0.0, 0.0, "cpu").scale)


def test_the_mse_range_has_no_more_error_than_the_widest() -> None:
    rng = np.random.default_rng(1)
    values = rng.laplace(0, 1, 100_000).astype(np.float32)
    seen = Observation(float(values.min()), float(values.max()), values)

    def error(bounds: tuple[float, float]) -> float:
        grid = Grid.over(*bounds, "cpu")
        integers = np.clip(np.rint(values / grid.scale) + grid.zero_point, 0, 255)
        return float(np.mean(((integers - grid.zero_point) * grid.scale - values) ** 2))

    assert error(choose_range(seen, "mse")) < error(choose_range(seen, "minmax"))


def test_an_unknown_way_suggests_the_nearest() -> None:
    assert range_method("auto") is None
    with pytest.raises(CalibrationError, match="did you mean 'entropy'"):
        range_method("entrophy")


def test_entropy_gives_up_outliers_and_mse_keeps_the_ranges_form() -> None:
    values = np.random.default_rng(0).normal(0, 1, 200_000).astype(np.float32)
    values[:2] = (-60, 60)
    assert choose_range(Observation(-60.0, 60.0, values), "entropy")[1] < 30
    low, high = choose_range(Observation(-60.0, 30.0, values), "mse")
    assert low / high == pytest.approx(-2)
    assert low > -60


def test_entropy_is_not_led_astray_by_zeros_nor_by_what_it_clips() -> None:
    values = np.abs(np.random.default_rng(0).normal(0, 1, 100_000)).astype(np.float32)
    for zeros in (0, 900_000):  # those of a ReLU
        seen = Observation(0.0, float(values.max()), np.concatenate([np.zeros(zeros, np.float32), values]))
        assert choose_range(seen, "entropy")[1] > 3


def test_the_percentile_leaves_out_one_value_in_ten_thousand_at_each_end() -> None:
    values = np.linspace(-1, 1, 2_000_001).astype(np.float32)
    found = choose_range(Observation(-1.0, 1.0, values), "percentile")
    assert found == pytest.approx((-0.9998, 0.9998), abs=2e-5)
