"""The experiment's cells and settings, its plan, and what its stages share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from codepose.cli.main import main
from codepose.networks.build import build_joint
from codepose.paper import grid
from codepose.paper.comparison import spread
from codepose.paper.grid import cells, share
from codepose.runtime.run import Run
from codepose.settings.errors import ConfigError


def test_the_grid_is_the_papers_and_a_row_it_lacks() -> None:
    names = [c.name for c in cells("paper", 0)]
    assert len(names) == len(set(names)) == 13
    for latent in (128, 4096):
        for schedule in ("t1", "t2"):
            assert {f"{schedule}-{latent}/{m}" for m in ("joint", "extended", "original")} <= set(names)
    assert names[12:] == ["t1-128/jitter"]
    with pytest.raises(ConfigError, match="t1-128/joint"):
        cells("paper", 0, ["t9"])


@pytest.mark.parametrize("scale", ["smoke", "cpu", "paper"])
def test_a_cells_settings_say_what_its_name_says(scale: grid.Scale) -> None:
    for cell in cells(scale, 5):
        schedule, latent = cell.group.split("-")
        assert cell.settings.seed == 5
        assert cell.settings.network.latent == int(latent)
        groups = [set(p.train) for p in cell.settings.step2.phases]
        if schedule == "t2":
            assert groups[:2] == [{"rpn", "fc", "box_head"}, {"encoder", "decoder"}]
        else:
            assert len(groups) <= 1


def test_paper_scale_is_the_papers_recipe() -> None:
    settings = cells("paper", 0, ["t1-4096/joint"])[0].settings
    assert (settings.data.step1_images, settings.data.scene_images, settings.data.test_images) == (100_000, 25_000, 800)
    assert (settings.step1.optimizer.name, settings.step1.epochs, settings.step1.batch) == ("adabound", 27, 128)
    assert (settings.step2.optimizer.name, settings.step2.epochs, settings.step2.batch) == ("sgd", 30, 12)
    assert settings.network.width == 1.0


def test_sharing_leaves_the_target_whole(tmp_path: Path, tiny_settings) -> None:
    source, target = (Run.create(tmp_path / name, tiny_settings) for name in ("a", "b"))
    share("step2", source, target)
    assert not target.has("step2")
    source.save_weights("step2", build_joint(tiny_settings))
    share("step2", source, target)
    assert target.has("step2")
    (target.path / "step2" / "weights.safetensors").unlink()
    share("step2", source, target)
    assert [path.name for path in (target.path / "step2").iterdir()] == ["weights.safetensors"]
    (source.path / "step2" / "weights.safetensors").unlink()
    target.load_weights("step2", build_joint(tiny_settings))


def test_the_dry_run_prints_every_stage_once_and_trains_nothing(tmp_path: Path, capsys) -> None:
    arguments = ["--dry-run", "--scale", "smoke", "--out", str(tmp_path / "x"), "--cells", "t?-128/*"]
    assert main(["reproduce", *arguments]) == 0
    text = capsys.readouterr().out
    assert [text.count(f" {stage} ") for stage in ("step1", "detector", "original", "step2", "jitter")] == [
        1,
        1,
        1,
        2,
        1,
    ]
    assert not (tmp_path / "x").exists()


def test_spread_of_one_seed_has_no_deviation() -> None:
    assert np.isnan(spread([0.5]).deviation)
    assert spread([1.0, 3.0]).deviation == pytest.approx(np.sqrt(2.0))


def test_console_is_not_needed_to_plan() -> None:
    from codepose.paper.reproduce import plan, plan_table

    table = plan_table(plan("smoke", ["t1-128/original"], "cpu"), "smoke", 1)
    assert len(table.rows) == 4  # detector, original, two sums
    Console(quiet=True).print(table)
