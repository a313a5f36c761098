"""``codepose settings``: the dozen that a newcomer needs, and all, as options that ``train`` takes."""

from __future__ import annotations

import re
import shlex

import pytest
import tyro

from codepose.cli.main import main
from codepose.cli.options import Train
from codepose.cli.settings_page import FIRST, described, option, typed
from codepose.settings.files import load_preset, override


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    """The options and the values behind them."""
    assert main(["settings", *arguments]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("--")]
    return {line.split()[0][2:]: line.partition(" ")[2] for line in lines}


def test_the_first_dozen_are_those_of_the_preset_and_say_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys)
    assert list(found) == [key.replace("_", "-") for key in FIRST]
    assert len(found) == 12
    assert found["objects.0.view-cone-deg"] == "180"
    assert found["data.camera.box-side"] == "44 72"
    assert printed(capsys, "--preset", "quick")["objects.0.view-cone-deg"] == "30"
    every = dict(described(load_preset("photos")))
    assert all(len(every[key][1]) > 20 for key in FIRST), "each says what it is"
    main(["settings"])
    out = capsys.readouterr().out
    assert "Half-angle of the trained views around ``view_direction``" in out
    assert out.rstrip().endswith(f"{len(every) - 12} more: codepose settings --all")


def test_all_settings_are_printed_and_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    """As they are printed, ``train`` takes them, and they change nothing."""
    found = printed(capsys, "--all", "--preset", "cpu")
    settings = load_preset("cpu")
    names = {key.replace(".no-", ".").replace("-", "_").removeprefix("no_") for key in found}
    assert names == set(dict(described(settings)))
    pairs = [(key, value) for key, value in found.items() if not key.endswith("phases")]  # a list of parts
    line = [word for key, value in pairs for word in (f"--{key}", *shlex.split(value))]
    options = tyro.cli(Train, args=["part.stl", *line], default=Train(settings=settings))
    assert options.settings == settings


def test_settings_stay_few() -> None:
    """Those of the four stages count once, and the settings' own name not at all.

    A number that no preset and no page changes is a constant.
    """
    every = dict(described(load_preset("photos")))
    assert len({re.sub(r"^(step1|original|detector|step2)\.", "", key) for key in every} - {"name"}) < 90


def test_values_are_typed_as_a_shell_takes_them() -> None:
    settings = override(load_preset("quick"), {"data.camera.box_side": [0.5, 72.0]})
    assert typed(settings.data.camera.box_side) == "0.5 72"
    assert (typed(None), typed(""), typed(1e-6)) == ("None", '""', "1e-06")
    assert option("network.frozen_now", True) == "--network.frozen-now"
    assert option("network.frozen_now", False) == "--network.no-frozen-now"
