"""When layers multiply in bf16."""

from __future__ import annotations

import pytest
import torch

from codepose.networks.precision import uses_bf16
from codepose.settings.schema import Settings

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, False),
        ({"avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False, "cpu_name": "AMD EPYC Genoa"}, True),  # from Zen 4 on
        ({"avx512_bf16": True, "amx_bf16": False, "cpu_name": "Intel Xeon"}, False),  # slower than float32
        ({"amx_bf16": True, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, True),
        ({"neon": True}, False),
    ],
)
def test_auto_asks_the_processor(
    capabilities: dict[str, bool | str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert uses_bf16(Settings(precision="auto"), CPU) is expected
    assert uses_bf16(Settings(precision="bf16"), CPU) is True
    assert uses_bf16(Settings(precision="float32"), CPU) is False


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_what_is_not_to_be_used_is_no_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 without its instructions is emulated: a training's first step takes minutes."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True, "avx512_bf16": True})
    monkeypatch.setenv(name, "AVX2")
    assert uses_bf16(Settings(precision="auto"), CPU) is False
    assert uses_bf16(Settings(precision="bf16"), CPU) is True
