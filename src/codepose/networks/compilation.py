"""torch.compile for the parts of a network that take its time."""

from __future__ import annotations

from torch import nn


def compile_convolutions(network: nn.Module, backend: str = "inductor") -> None:
    """Compiles a network's encoders and decoders in place; its weights keep their names.

    They are plain stacks of layers, without a graph break. What surrounds them (proposals, suppression, sampling)
    depends on values and is left as it is.

    Args:
        network: Any of ours.
        backend: Of ``torch.compile``.
    """
    for name, part in network.named_modules():
        if name.rpartition(".")[2] in ("encoder", "decoder"):
            part.compile(backend=backend)
