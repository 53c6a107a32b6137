"""Windows gathered by PyTorch, as on a GPU, against those from memory-mapped arrays."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import synthetic

from dt.data import Normalisation, batches, gather
from dt.resident import ResidentTrajectories


@pytest.mark.parametrize("context", [(5, 5), (1, 9)])
@pytest.mark.parametrize("sampling", ["trajectory", "transition"])
def test_windows_of_an_epoch_equal_those_of_data(
    sampling: str, context: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dt.resident.ROWS", 7)  # fewer than there are
    trajectories, stats = synthetic(11, 3)
    data: dict[str, Any] = {"normalise_states": True, "normalise_actions": True}
    normalisation = Normalisation.from_stats(stats, data, 1000.0)

    def chosen() -> Any:
        return batches(trajectories, sampling, 4, context, np.random.default_rng(0))

    resident = ResidentTrajectories(trajectories, normalisation, torch.device("cpu"))
    found = list(resident.epoch(chosen()))
    assert len(found) == 3
    for windows, batch in zip(found, chosen(), strict=True):
        for name, expected in vars(gather(trajectories, normalisation, *batch)).items():
            assert torch.equal(windows[name], torch.from_numpy(expected)), name
    assert list(resident.epoch([])) == []
