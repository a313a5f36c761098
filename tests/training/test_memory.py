"""Sizes that no machine has are refused before anything is tried; those that were trained are not."""

from __future__ import annotations

import os

import pytest

from codepose.networks.build import build_joint
from codepose.settings.errors import ConfigError
from codepose.settings.files import PRESETS, load_preset, override
from codepose.settings.schema import Settings
from codepose.training.memory import least_memory, require_memory


def test_it_counts_what_is_there(tiny_settings: Settings) -> None:
    settings = override(tiny_settings, {"step1.batch": 8, "step2.batch": 64, "codebook.level": 2, "data.textures": 3})
    weights, step1, step2, textures, codes = least_memory(settings).values()
    assert weights == 12 * sum(p.numel() for p in build_joint(settings).parameters())
    assert step1 == 8 * 32 * 32 * (2 * 8) * 2  # two maps of 64 / 8 channels of two bytes
    assert step2 == 8 * 128 * 128 * (2 * 8) * 2, "an iteration has no more images than there are"
    assert textures == 2 * 3 * 128 * 128 * 3
    assert codes == 162 * 4 * 16 * 2


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"network.latent": 65_536, "network.crop": 512, "data.camera.image_size": 512}, "--network.latent"),
        ({"step1.batch": 65_536, "network.crop": 128}, "--step1.batch"),
        ({"step2.batch": 65_536}, "--step2.batch"),
        ({"data.textures": 65_536, "data.camera.image_size": 1024}, "--data.textures"),
        ({"codebook.level": 6, "codebook.in_plane": 3600}, "--codebook.level"),
    ],
)
def test_what_is_too_large_is_named(
    changes: dict[str, object], option: str, tiny_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 2**22 // 4, "SC_PAGE_SIZE": 4096}.get)  # 4 GB
    require_memory(tiny_settings)
    settings = override(
        tiny_settings, {"data.step1_images": 10**6, "data.scene_images": 10**6, "data.camera.focal": 400.0} | changes
    )
    with pytest.raises(ConfigError, match=rf"at least [\d,]+ GB of memory, and this machine has 4: lower .*{option}"):
        require_memory(settings)
    require_memory(settings, nodes=1000)


def test_every_preset_fits_a_machine_of_16_gb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 2**22, "SC_PAGE_SIZE": 4096}.get)
    for name in PRESETS:
        require_memory(load_preset(name))
