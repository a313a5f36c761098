"""The devices that a training asks Fabric for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning_fabric
import pytest
import torch
from lightning_fabric import strategies
from lightning_fabric.utilities.exceptions import MisconfigurationException

from codepose.runtime import devices as module
from codepose.runtime.devices import make_fabric
from codepose.settings.errors import ConfigError


@pytest.fixture(name="fabrics")
def _fabrics(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Fabric is asked for."""
    asked: list[Any] = []

    class FakeFabric:
        def __init__(self, **settings: Any) -> None:
            self.settings, self.launched = settings, False
            self.device = torch.device("cuda:1" if settings["accelerator"] == "cuda" else "cpu")
            asked.append(self)

        def launch(self) -> None:
            self.launched = True

    monkeypatch.setattr(lightning_fabric, "Fabric", FakeFabric)
    monkeypatch.setattr(module, "named_device", torch.device)  # whatever this machine has
    monkeypatch.setattr(strategies, "DDPStrategy", lambda **settings: SimpleNamespace(**settings))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.append(device))
    return asked


@pytest.mark.parametrize(("name", "kind", "devices"), [("cpu", "cpu", 1), ("cuda", "cuda", 1), ("cuda:1", "cuda", [1])])
def test_one_device(fabrics: list[Any], name: str, kind: str, devices: Any) -> None:
    """In float32: bf16 is up to ``autocast``. What then names no GPU means this one."""
    fabric = make_fabric(name)
    assert fabrics[0] is fabric
    assert fabrics[0].settings == {"accelerator": kind, "devices": devices, "precision": "32-true"}
    assert fabrics[1:] == ([torch.device("cuda:1")] if kind == "cuda" else [])
    assert not fabrics[0].launched


@pytest.mark.parametrize(("devices", "nodes"), [(2, 1), (1, 2), (4, 3), (2, 2)])
def test_several_devices_wait_a_day_for_each_other(fabrics: list[Any], devices: int, nodes: int) -> None:
    fabric = make_fabric("cpu", devices, nodes)
    assert fabrics == [fabric]
    settings = dict(fabrics[0].settings)
    assert settings.pop("strategy").timeout.total_seconds() == 24 * 3600
    assert settings == {"accelerator": "cpu", "devices": devices, "num_nodes": nodes, "precision": "32-true"}
    assert fabrics[0].launched


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("error", [RuntimeError, ValueError, MisconfigurationException])
def test_what_fabric_refuses_is_an_error_of_the_users(
    monkeypatch: pytest.MonkeyPatch, count: int, error: type[Exception]
) -> None:
    def refuse(**_: Any) -> None:
        raise error("no such device")

    monkeypatch.setattr(lightning_fabric, "Fabric", refuse)
    with pytest.raises(ConfigError, match=r"^no such device$"):
        make_fabric("cpu", count)
