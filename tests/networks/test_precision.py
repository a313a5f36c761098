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
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert uses_bf16(Settings(precision="auto"), CPU) is expected
    assert uses_bf16(Settings(precision="bf16"), CPU) is True
    assert uses_bf16(Settings(precision="float32"), CPU) is False
