"""The device that a training takes."""

import pytest
import torch

from dt.machine import DeviceError, device


def test_a_gpu_is_taken_where_there_is_one_and_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert device("cpu").type == "cpu"
        assert device("auto").type == ("cuda" if there else "cpu")


def test_a_gpu_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        DeviceError, match=r"training\.device is cuda, but PyTorch finds no GPU here; auto takes the CPU"
    ):
        device("cuda")
