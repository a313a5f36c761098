"""Where a training begins: at random weights, at ImageNet's VGG16, or at another run's network."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from codepose.config import Settings
from codepose.networks.autoencoder import OriginalAutoencoder
from codepose.networks.build import build_extended
from codepose.networks.joint import JointNetwork
from codepose.networks.vgg import Encoder, load_imagenet
from codepose.training.checkpoint import CheckpointError, load_state
from codepose.training.run import Run, RunError, pretrained


def begin_with(network: nn.Module, weights: str) -> None:
    """Loads the weights that ``network.weights`` names into a fresh network of any stage, as far as they fit.

    Another run's joint network gives its encoder, which must fit; and its decoder, FC layers, RPN and box head where
    they have the same shapes: another crop or latent size leaves the FC layers as they are, another number of objects
    the box head's last layer. The original AAE, which has no VGG16, always begins at random.

    Args:
        network: An extended AAE, a detector or a joint network.
        weights: "none", "imagenet", a run's folder, or the name of one that codepose brings.

    Raises:
        FileNotFoundError: ImageNet's weights are wanted, and torchvision's file is not there.
        ConfigError: They do not fit the encoder's width or norm.
        RunError: There is no such run, its joint network is not trained, or its encoder does not fit.
    """
    if weights == "none" or isinstance(network, OriginalAutoencoder):
        return
    if weights == "imagenet":
        load_imagenet(cast(Encoder, getattr(network, "autoencoder", network).encoder))
        return
    own, theirs = network.state_dict(), _joint_weights(weights)
    if not isinstance(network, JointNetwork):
        theirs = {key.removeprefix("autoencoder."): value for key, value in theirs.items()}
    fitting = {key: value for key, value in theirs.items() if key in own and value.shape == own[key].shape}
    encoder = [key for key in own.keys() | theirs.keys() if key.startswith(("encoder.", "autoencoder.encoder."))]
    if any(key not in fitting for key in encoder):
        raise RunError(
            f"--network.weights {weights}: its encoder has another --network.width or --network.norm; type those of "
            f"its config.yaml, or --network.weights none"
        )
    network.load_state_dict(fitting, strict=False)


def _joint_weights(weights: str) -> dict[str, Tensor]:
    run = Run.open(pretrained().get(weights, weights))  # ./hammer is a folder of the user's own
    path = run.path / "step2" / "weights.safetensors"
    try:
        state: dict[str, Tensor] = load_state(path)
    except CheckpointError as error:
        raise RunError(f"--network.weights {weights}: no joint network to begin with: {error}") from None
    return state


def require_initial(settings: Settings) -> None:
    """Refuses initial weights that cannot be used before anything is written; raises what ``begin_with`` does."""
    begin_with(build_extended(settings), settings.network.weights)
