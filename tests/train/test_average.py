"""The average of the weights, which is what a training publishes."""

from __future__ import annotations

import torch

from lfpose_edge.train.loop import update_average


def test_the_average_is_of_the_statistics_too_and_counts_are_taken_over() -> None:
    average, network = torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2)
    values = {"weight": 2.0, "bias": -1.0, "running_mean": 1.0, "running_var": 3.0, "num_batches_tracked": 7}
    for name, value in values.items():
        network.state_dict()[name].fill_(value)
    update_average(average, network, 0.9)
    expected = {"weight": 1.1, "bias": -0.1, "running_mean": 0.1, "running_var": 1.2}
    found = average.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], torch.full((2,), value))
    assert found["num_batches_tracked"] == 7
