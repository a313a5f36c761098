"""The judge that codepose brings, read from its file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from codepose.networks.folded_norms import folded
from codepose.networks.pose_judge import RENDERED, SIDE, PoseJudge, Verdict
from codepose.networks.precision import autocast

if TYPE_CHECKING:
    from codepose.refinement.judge import Compare
    from codepose.settings.schema import Settings

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


def shipped_judge(settings: Settings, device: torch.device) -> Compare:
    """Returns the comparison by the network that codepose brings, in the settings' precision."""
    network = load_network(device)

    def compare(photos: Tensor, renders: Tensor) -> Verdict:
        with autocast(settings, device):
            verdict: Verdict = network(photos, renders)
        return verdict

    return compare
