"""The judge that codepose brings, read from its file."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

from codepose.networks.folded_norms import folded
from codepose.networks.pose_judge import RENDERED, SIDE, PoseJudge

SHIPPED = Path(__file__).parents[1] / "pretrained" / "judge.safetensors"


@cache
def load_network(device: torch.device, path: Path = SHIPPED) -> PoseJudge:
    """Returns the network of a weights file, or the one that codepose brings: one for all who ask on a device.

    It can judge, not learn: its batch norms are inside its convolutions.
    """
    network = PoseJudge().eval()
    network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    random = torch.Generator().manual_seed(0)
    pair = torch.rand(1, 3, SIDE, SIDE, generator=random), torch.rand(1, RENDERED, SIDE, SIDE, generator=random)
    result = folded(network, lambda one: one(*pair)).to(device).to(memory_format=torch.channels_last)
    assert isinstance(result, PoseJudge)
    return result
