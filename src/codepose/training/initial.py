"""Where a training begins: at random weights, at a backbone's pretrained ones, or at another run's network."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from torch import Tensor, nn

from codepose.networks.autoencoder import OriginalAutoencoder
from codepose.networks.backbone import Backbone
from codepose.networks.build import build_extended
from codepose.networks.joint import JointNetwork
from codepose.runtime.checkpoint import CheckpointError, load_state
from codepose.runtime.run import Run, RunError, pretrained
from codepose.settings.schema import Settings

_FILES = (".pth", ".pt", ".bin", ".safetensors")


def begin_with(network: nn.Module, weights: str) -> None:
    """Loads the weights that ``network.weights`` names into a fresh network of any stage, as far as they fit.

    Another run's joint network gives its encoder, which must fit; and its decoder, FC layers, RPN and box head where
    they have the same shapes: another crop or latent size leaves the FC layers as they are, another number of objects
    the box head's last layer. The original AAE, which has no backbone, always begins at random.

    Args:
        network: An extended AAE, a detector or a joint network.
        weights: "none", "imagenet", a file of the backbone's weights, a run's folder, or the name of one that codepose
            brings.

    Raises:
        FileNotFoundError: VGG16's file is not there.
        ConfigError: The backbone has no pretrained weights, or they do not fit.
        RunError: There is no such run, its joint network is not trained, or its encoder does not fit.
    """
    if weights == "none" or isinstance(network, OriginalAutoencoder):
        return
    file = Path(weights)
    if weights == "imagenet" or file.suffix in _FILES:
        backbone = cast(Backbone, getattr(network, "autoencoder", network).encoder)
        backbone.load_pretrained(None if weights == "imagenet" else file)
        return
    run = Run.open(pretrained().get(weights, weights))  # ./hammer is a folder of the user's own
    own, theirs = network.state_dict(), _joint_weights(run, weights)
    if not isinstance(network, JointNetwork):
        theirs = {key.removeprefix("autoencoder."): value for key, value in theirs.items()}
    fitting = {key: value for key, value in theirs.items() if key in own and value.shape == own[key].shape}
    encoder = [key for key in own.keys() | theirs.keys() if key.startswith(("encoder.", "autoencoder.encoder."))]
    if any(key not in fitting for key in encoder):
        its = run.settings.network
        raise RunError(
            f"--network.weights {weights}: its encoder is another, --network.backbone {its.backbone} --network.width "
            f"{its.width:g} --network.norm {its.norm}; type these, or --network.weights imagenet for the backbone's "
            f"own weights, none for random ones"
        )
    network.load_state_dict(fitting, strict=False)


def _joint_weights(run: Run, weights: str) -> dict[str, Tensor]:
    path = run.path / "step2" / "weights.safetensors"
    try:
        state: dict[str, Tensor] = load_state(path)
    except CheckpointError as error:
        raise RunError(f"--network.weights {weights}: no joint network to begin with: {error}") from None
    return state


def require_initial(settings: Settings) -> None:
    """Refuses initial weights that cannot be used before anything is written; raises what ``begin_with`` does."""
    begin_with(build_extended(settings), settings.network.weights)
