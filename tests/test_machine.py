"""The device that a training takes, and its matrix products."""

import pytest
import torch

from dt import provenance
from dt.machine import DeviceError, computing, device, use_fastest_products, warn_of_slow_products


def test_a_gpu_is_taken_where_there_is_one_and_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert device("cpu").type == "cpu"
        assert device("auto").type == ("cuda" if there else "cpu")


def test_a_gpu_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"device is cuda, but PyTorch finds no GPU here; auto takes the CPU"):
        device("cuda")


def test_fast_products_in_fp32_do_not_round() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        use_fastest_products()
        assert computing("cpu")["products"] == "oneDNN"
        torch.manual_seed(0)
        inputs, weight = torch.randn(3776, 128), torch.randn(128, 512)
        errors = (inputs @ weight).double() - inputs.double() @ weight.double()
        assert errors.abs().max() < 1e-4  # bf16's are a thousand times larger
    finally:
        torch.set_float32_matmul_precision(before)


def test_products_that_round_are_not_taken(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch, "equal", lambda *_: False)
    try:
        with caplog.at_level("INFO"):
            use_fastest_products()
        assert torch.get_float32_matmul_precision() == "highest"
        assert computing("cpu")["products"] in ("MKL", "PyTorch's default")
        assert computing("cuda")["products"] == "cuBLAS"
        assert "oneDNN rounds to bf16 here" in caplog.text
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("flags", "slow"),
    [
        ("avx2 fma", True),
        ("avx512f avx512_vnni", True),
        ("asimd sve", True),
        ("avx512f avx512_bf16", False),
        ("amx_bf16 amx_tile", False),
        ("asimd bf16", False),
        ("", False),  # not Linux: nobody tells
    ],
)
def test_bf16_without_instructions_for_it_is_logged_as_slow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, flags: str, slow: bool, precision: str
) -> None:
    told = {"flags": flags, "model name": "Some Processor"}
    monkeypatch.setattr(provenance, "_cpuinfo", lambda name: told.get(name, ""))
    warn_of_slow_products(precision)
    expected = "Some Processor has no bf16 instructions: a training step in bf16 takes several times as long as in fp32"
    assert (expected in caplog.text) == (slow and precision == "bf16")
