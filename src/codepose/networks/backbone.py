"""What every encoder is: images to one feature map, behind one interface."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from codepose.settings.errors import ConfigError


class Backbone(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> features (B, ``out_channels``, H/``stride``, W/``stride``).

    A backbone normalises its images itself. Its ``forward`` is all that training, detection, codes and export ask for.

    Attributes:
        stride: Pixels of the image from one feature to the next: 2, 4, 8 or 16.
        out_channels: Of the feature map.
    """

    stride: int
    out_channels: int

    def blocks(self) -> list[list[nn.Parameter]]:
        """Returns the parameters that ``network.frozen_blocks`` counts, block by block from the image on.

        What is in none of them always learns: a neck on pretrained layers is none.
        """
        return []

    def load_pretrained(self, path: Path | None = None) -> None:
        """Loads weights that were learned from photographs.

        Args:
            path: Their file; None = wherever this backbone keeps them.

        Raises:
            ConfigError: There are none, or they do not fit.
            FileNotFoundError: They are not there; the text says where to put them.
        """
        raise ConfigError(f"{type(self).__name__} has no pretrained weights: type --network.weights none")

    def forward(self, images: Tensor) -> Tensor:
        raise NotImplementedError


def frozen_parameters(encoder: nn.Module, frozen: bool, blocks: int) -> set[int]:
    """Returns the ids of an encoder's parameters that do not learn.

    Args:
        encoder: A backbone; the original AAE's encoder, which is none, learns as a whole.
        frozen: Whether none of the blocks learns.
        blocks: Else, how many of them do not.
    """
    if not isinstance(encoder, Backbone):
        return set()
    every = encoder.blocks()
    return {id(parameter) for block in (every if frozen else every[:blocks]) for parameter in block}
