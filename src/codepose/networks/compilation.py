"""torch.compile for the parts of a network that take its time."""

from __future__ import annotations

from torch import nn

_GRAPHS = 256
"""How often one layer's code may be compiled: training, validation and views, with whatever a phase freezes, of every
stage of a process. torch's own limit of 8 is reached in Step 2; beyond it nothing is compiled any more."""


def compile_convolutions(network: nn.Module, backend: str = "inductor") -> None:
    """Compiles a network's encoders and decoders in place; its weights keep their names.

    They are plain stacks of layers, without a graph break. What surrounds them (proposals, suppression, sampling)
    depends on values and is left as it is.

    Args:
        network: Any of ours.
        backend: Of ``torch.compile``.
    """
    import torch._dynamo  # the compiler takes seconds to import

    torch._dynamo.config.recompile_limit = max(_GRAPHS, torch._dynamo.config.recompile_limit)
    for name, part in network.named_modules():
        if name.rpartition(".")[2] in ("encoder", "decoder"):
            part.compile(backend=backend)
