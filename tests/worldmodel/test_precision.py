"""Device and number format."""

import pytest
import torch

from worldmodel import precision
from worldmodel.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)])
def test_auto_follows_a_gpus_generation(capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision.choose_dtype("auto", torch.device("cuda")) == dtype


def test_what_is_asked_for_is_taken_unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(precision.cpu_speed, "cpu_speed")
    assert precision.choose_dtype("bfloat16", CPU) == torch.bfloat16
    assert precision.choose_dtype("float32", CPU) == torch.float32


@pytest.mark.parametrize("feature", ["avx512_bf16", "amx_bf16"])
def test_a_cpu_has_fast_bfloat16_where_torch_sees_its_instructions(feature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, feature: False}, raising=False)
    assert not precision.has_fast_bfloat16(CPU)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, feature: True}, raising=False)
    assert precision.has_fast_bfloat16(CPU)


def test_older_torch_reads_the_same_from_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("this torch has nothing to compare with")
    modern = precision.has_fast_bfloat16(CPU)
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert precision.has_fast_bfloat16(CPU) == modern


def test_autocast_is_on_for_bfloat16_only() -> None:
    x = torch.ones(2, 2)
    with precision.autocast(CPU, torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
    with precision.autocast(CPU, torch.float32):
        assert (x @ x).dtype == torch.float32


def test_devices_that_are_not_there_are_refused() -> None:
    assert precision.choose_device("cpu") == CPU
    with pytest.raises(UserError, match="unknown device 'gpu'"):
        precision.choose_device("gpu")
    with pytest.raises(UserError, match="device 'cuda:99' is not there"):
        precision.choose_device("cuda:99")
