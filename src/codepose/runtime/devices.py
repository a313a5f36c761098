"""Which device a program runs on, alone or with others that work as one."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from codepose.runtime.extras import require_training
from codepose.runtime.ranks import layout
from codepose.settings.errors import ConfigError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_PATIENCE = timedelta(days=1)
"""How long ranks wait for each other: one may have a whole video to itself."""


def named_device(name: str) -> torch.device:
    """Returns the device called "auto", "cpu", "cuda" or "cuda:N"; "auto" is a GPU where there is one.

    Raises:
        ConfigError: No device that codepose runs on is called so, or this machine has none such.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, not {name}")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, not {name}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"there is no device {name}: PyTorch sees {torch.cuda.device_count()} GPUs (CUDA)")
    return device


def current_device(name: str) -> torch.device:
    """Returns the device called so, as ``named_device`` does; a GPU with a number becomes torch's current one."""
    device = named_device(name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


def make_fabric(device: str = "auto", devices: int = 1, nodes: int = 1) -> Fabric:
    """Returns a Fabric for one device, or, with its processes started, for several that work as one (DDP).

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N".
        devices: How many on each machine. Left at 1, torchrun's and srun's own processes are used.
        nodes: Machines; on each of them this program is started.

    Raises:
        ConfigError: There is no such device, there are not so many, a launcher has started another number of
            processes, or the extra ``train`` is not installed.
    """
    require_training("work on several devices")
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    # Fabric's own mixed precision is left off: it would turn boxes, rotations and targets into bf16 on their way into
    # the network. ``autocast`` rounds only what the layers multiply
    one = named_device(device)
    devices, nodes = layout(devices, nodes)
    if devices * nodes == 1:
        return _one_device(one.type, 1 if one.index is None else [one.index])
    if one.index is not None:
        raise ConfigError(f"--device {device} is one device, not {devices * nodes}: type --device {one.type}")
    try:
        strategy = DDPStrategy(timeout=_PATIENCE)
        fabric = Fabric(accelerator=one.type, devices=devices, num_nodes=nodes, strategy=strategy, precision="32-true")
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise ConfigError(str(error)) from None
    fabric.launch()
    return fabric


def _one_device(kind: str, devices: list[int] | int) -> Fabric:
    from lightning_fabric import Fabric
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    try:
        fabric = Fabric(accelerator=kind, devices=devices, precision="32-true")
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise ConfigError(str(error)) from None
    if fabric.device.type == "cuda":
        torch.cuda.set_device(fabric.device)  # what names no device means this one; ``launch`` does so for several
    return fabric
