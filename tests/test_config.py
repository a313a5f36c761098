"""The settings: the paper's numbers, the shipped presets, YAML in and out, and errors that name the key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from codepose.cli.chosen import starting_settings, with_meshes
from codepose.networks.joint import MIN_IOU
from codepose.rendering.shading import ADD, CHANGED, MULTIPLY, PER_CHANNEL
from codepose.settings.crop import ROI_PAD
from codepose.settings.errors import ConfigError
from codepose.settings.files import (
    PRESETS,
    load_preset,
    load_run_settings,
    load_settings,
    override,
    save_run_settings,
    to_yaml,
)
from codepose.settings.removed import REMOVED
from codepose.settings.schema import Settings
from codepose.settings.training import ALL_GROUPS, MOMENTUM, OptimizerSettings, Phase
from codepose.synthesis.scenes import SCALE, SHIFT
from codepose.training.optimizers import FINAL_LR
from codepose.training.stages import LAMBDA_ANGLE

FOUND = sorted(p.name[:-5] for p in resources.files("codepose").joinpath("presets").iterdir() if p.name[-5:] == ".yaml")
SHIPPED = {"photos", "quick", "robust", "cpu", "smoke"}
SHIPPED |= {"paper-128-t1", "paper-128-t2", "paper-4096-t1", "paper-4096-t2"}

# dotted key → what the paper prints, or what decisions.md settles
PRINTED: dict[str, Any] = {
    "step1.optimizer.name": "adabound",
    "step1.optimizer.lr": 8e-6,
    "step1.optimizer.schedule": "constant",
    "step1.batch": 128,
    "step1.epochs": 27.0,
    "losses.lambda_cos": 1e-2,
    "losses.lambda_pose": 1.0,
    "losses.bootstrap_ratio": 1,
    "losses.stop_grad_target": False,
    "data.step1_images": 100_000,
    "data.scene_images": 25_000,
    "data.test_images": 800,
    "data.val_images": 500,
    "data.backgrounds": None,
    "data.curriculum": 0.0,
    "data.camera.image_size": 512,
    "data.camera.focal": 300.0,
    "data.camera.box_side": (80.0, 133.0),
    "data.camera.truncation": 0.0,
    "data.augmentation.contrast": (0.4, 2.3),
    "data.augmentation.blur_sigma": 1.2,
    "data.augmentation.noise": 0.0,
    "data.occlusion.unoccluded": 0.3,
    "data.occlusion.min_visible": 0.4,
    "network.crop": 128,
    "network.latent": 4096,
    "network.width": 1.0,
    "network.norm": "none",
    "network.weights": "none",
    "network.anchor_sizes": (64.0, 128.0, 256.0),
    "original.batch": 64,
    "original.optimizer.name": "adam",
    "original.optimizer.lr": 2e-4,
    "codebook.level": 4,
    "codebook.in_plane": 36,
    **{
        f"{stage}.{key}": value
        for stage in ("detector", "step2")
        for key, value in {
            "batch": 12,
            "epochs": 30.0,
            "optimizer.name": "sgd",
            "optimizer.lr": 0.01,
            "optimizer.schedule": "steps",
            "optimizer.weight_decay": 5e-4,
            "optimizer.warmup": 500,
        }.items()
    },
}


def at(settings: Settings, key: str) -> Any:
    node: Any = settings
    for part in key.split("."):
        node = getattr(node, part)
    return node


def test_constants_are_the_papers() -> None:
    assert (LAMBDA_ANGLE, MIN_IOU, ROI_PAD, FINAL_LR, MOMENTUM["sgd"]) == (1e-6, 0.3, 1.2, 0.1, 0.9)
    assert (CHANGED, ADD, MULTIPLY, PER_CHANNEL, SCALE, SHIFT) == (0.5, 0.1, (0.6, 1.4), 0.3, (0.8, 1.2), 0.15)


@pytest.mark.parametrize("key", sorted(PRINTED))
def test_defaults_are_the_papers(key: str) -> None:
    assert at(Settings(), key) == PRINTED[key]


def test_defaults_describe_one_hammer_seen_from_everywhere() -> None:
    (part,) = Settings().objects
    assert (part.mesh, part.unit, part.view_cone_deg, part.view_direction) == ("hammer", "mm", 180.0, None)


@pytest.mark.parametrize("direction", [[0, 0, 0], [0, 0, float("nan")], [float("inf"), 0, 0]])
def test_a_view_direction_points_somewhere(direction: list[float]) -> None:
    with pytest.raises(ValueError, match="length above 0"):
        override(Settings(), {"objects.0.view_direction": direction})


def test_the_padded_square_averages_the_crop() -> None:
    """(34): the square the encoder sees is 128 px on average, Step 1's scale."""
    low, high = Settings().data.camera.box_side
    assert ROI_PAD * (low + high) / 2 == pytest.approx(Settings().network.crop, abs=0.5)


def test_the_originals_30000_iterations() -> None:
    """(AAE) 30,000 iterations of 64, over Step 1's images."""
    settings = Settings()
    assert settings.original.epochs * settings.data.step1_images / settings.original.batch == 30_000
    assert settings.original.batch == 64


# presets


def test_these_presets_ship_and_no_other_file() -> None:
    assert set(PRESETS) == SHIPPED
    assert set(FOUND) == SHIPPED


@pytest.mark.parametrize("name", FOUND)
def test_preset_round_trips(name: str, tmp_path: Path) -> None:
    settings = load_preset(name)
    assert settings.name == name
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(settings))
    assert load_settings(path) == settings
    assert to_yaml(load_settings(path)) == path.read_text()
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize("name", [n for n in FOUND if n.startswith("paper-")])
def test_paper_presets_say_what_their_names_say(name: str) -> None:
    _, latent, scheme = name.split("-")
    settings = load_preset(name)
    assert settings.network.latent == int(latent)
    phases = [(p.epochs, set(p.train)) for p in settings.step2.phases]
    if scheme == "t1":
        assert phases in ([], [(30.0, set(ALL_GROUPS))])
    else:
        assert phases == [
            (1.0, {"rpn", "fc"}),
            (1.0, {"encoder", "decoder"}),
            (28.0, set(ALL_GROUPS)),
        ] or (
            phases
            == [
                (1.0, {"rpn", "fc", "box_head"}),
                (1.0, {"encoder", "decoder"}),
                (28.0, set(ALL_GROUPS)),
            ]
        )
    # nothing that the paper prints is changed but the latent
    for key, value in PRINTED.items():
        if key != "network.latent" and key != "network.weights":
            assert at(settings, key) == value, key


def test_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'papre'.*paper-4096-t2.*quick.*robust"):
        load_preset("papre")


# YAML


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_left_out_keys_keep_the_papers_values(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path / "a.yaml", "step1: {batch: 7, optimizer: {lr: 1e-3}}\n"))
    assert settings.step1.batch == 7
    assert settings.step1.epochs == 27.0
    assert settings.step1.optimizer.lr == 1e-3  # YAML 1.1 reads 1e-3 as text; it is a number all the same
    assert settings.step2 == Settings().step2
    assert load_settings(write(tmp_path / "empty.yaml", "# nothing\n")) == Settings()


@pytest.mark.parametrize("stage", ["step1", "original", "detector", "step2"])
def test_a_stage_changed_in_part_keeps_the_rest_of_its_own_defaults(stage: str, tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path / "a.yaml", f"{stage}: {{validations: 3, optimizer: {{clip: 1.5}}}}\n"))
    expected = override(Settings(), {f"{stage}.validations": 3, f"{stage}.optimizer.clip": 1.5})
    assert settings == expected


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("batchsize: 3", "batchsize"),
        ("step1: {bacth: 3}", "step1.bacth"),
        ("data: {camera: {focus: 3}}", "data.camera.focus"),
        ("objects: [{mesh: hammer, colour: red}]", "objects.0.colour"),
        ("step2: {phases: [{epochs: 30, trian: [fc]}]}", "step2.phases.0.trian"),
    ],
)
def test_unknown_key_is_named(text: str, key: str, tmp_path: Path) -> None:
    path = write(tmp_path / "typo.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert f" {key}: " in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("step1: {batch: 0}", "step1.batch"),
        ("step1: {optimizer: {lr: -1.0}}", "step1.optimizer.lr"),
        ("network: {crop: 100}", "network.crop"),
        ("network: {norm: batch}", "network.norm"),
        ("data: {occlusion: {min_visible: 1.5}}", "data.occlusion.min_visible"),
        ("data: {camera: {box_side: [80]}}", "data.camera.box_side"),
        ("data: {camera: {image_size: 500}}", "data.camera.image_size"),
        ("data: {camera: {box_side: [80, 600]}}", "data.camera.box_side"),
        ("data: {camera: {box_side: [0, 60]}}", "data.camera.box_side"),
        ("data: {seed: -1}", "data.seed"),
        ("data: {occlusion: {others: -1}}", "data.occlusion.others"),
        ("data: {augmentation: {noise: -0.1}}", "data.augmentation.noise"),
        ("refinement: {rounds: -1}", "refinement.rounds"),
        ("objects: []", "objects"),
        ("objects: [{mesh: a/part.stl}, {mesh: b/part.stl}]", "part"),
        ("objects: [{mesh: a.stl, label: x}, {mesh: b.stl, label: x}]", "objects"),
        ("objects: [{view_cone_deg: 181}]", "objects.0.view_cone_deg"),
        ("step2: {phases: [{epochs: 0}]}", "step2"),
    ],
)
def test_bad_value_is_named(text: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path / "bad.yaml", text))
    assert key in str(caught.value)


def test_every_problem_of_a_file_is_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path / "bad.yaml", "step1: {batch: 0, bacth: 2}\nsead: 1\n"))
    assert all(f" {key}: " in str(caught.value) for key in ("step1.batch", "step1.bacth", "sead"))


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: 1\nb: [1", r"other.yaml, line 2: no YAML: expected"), ("a: \0", "not valid YAML"), ("- 1\n- 2\n", "mapping")],
)
def test_other_files_are_refused_in_words(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        load_settings(write(tmp_path / "other.yaml", text))


def test_what_is_wrong_is_told_in_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.yaml", "step1: {bacth: 2, batch: many}\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert str(caught.value) == (
        f"{path} cannot be used: step1.batch: must be a valid integer, unable to parse string as an integer; "
        "step1.bacth: there is no such setting"
    )


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read: No such file"):
        load_settings(tmp_path / "nowhere.yaml")


# override


def with_value(settings: Settings, key: str, value: Any) -> str:
    """A file of settings that has a setting more."""
    values = settings.model_dump(mode="json")
    *parents, last = key.split(".")
    node = values
    for part in parents:
        node = node[part]
    assert last not in node
    node[last] = value
    return yaml.safe_dump(values, sort_keys=False)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"step1": {"log_every": 7, "optimizer": {"momentum": 0.95}}}, None),  # quick's is Muon
        ({"step1": {"optimizer": {"momentum": 0.9}}}, "step1.optimizer.momentum"),
        ({"step2": {"optimizer": {"name": "sgd", "momentum": 0.9}}}, None),
        ({"step2": {"optimizer": {"name": "sgd", "momentum": 0.95}}}, "step2.optimizer.momentum"),
        ({"original": {"optimizer": {"name": "adamw", "momentum": 0.3}}}, None),  # it has none
        ({"refinement": {"keep": 1, "rounds": 2}}, None),  # it counts from the third round on
        ({"refinement": {"keep": 1}}, "refinement.keep"),
        ({"detector": {"optimizer": {"name": [], "momentum": []}}}, "detector.optimizer.name"),
    ],
)
def test_a_removed_setting_may_have_any_value_where_it_changes_nothing(
    values: dict[str, Any], says: str | None, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.yaml", yaml.safe_dump({"base": "quick", **values}))
    if says is None:
        assert isinstance(load_settings(path), Settings)
    else:
        with pytest.raises(ConfigError, match=re.escape(f"{path} cannot be used: {says}: ")):
            load_settings(path)


@pytest.mark.parametrize("key", sorted(REMOVED))
def test_a_run_that_left_a_removed_setting_at_its_default_opens(key: str, tmp_path: Path) -> None:
    """One that changed it is refused by name, in one line."""
    settings, path = load_preset("quick"), tmp_path / "config.yaml"
    path.write_text(with_value(settings, key, REMOVED[key]))
    assert load_run_settings(path) == load_settings(path) == settings
    path.write_text(with_value(settings, key, 0.125))
    for load in (load_run_settings, load_settings):
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert str(caught.value) == (
            f"{path} cannot be used: {key}: there is no such setting any more, and it is 0.125"
        )


def test_a_norm_that_is_gone_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(load_preset("quick")).replace("norm: block", "norm: group"))
    with pytest.raises(ConfigError, match=r"network\.norm: must be 'none' or 'block'$"):
        load_run_settings(path)


def test_override_changes_what_it_names_and_nothing_else() -> None:
    before = Settings()
    changed = override(before, {"step1.batch": 4, "data.camera.box_side": [20, 33], "name": "mine", "seed": "3"})
    assert (changed.step1.batch, changed.data.camera.box_side, changed.name, changed.seed) == (
        4,
        (20, 33),
        "mine",
        3,
    )
    assert before == Settings()
    back = {"step1.batch": 128, "data.camera.box_side": [80, 133], "name": before.name, "seed": 0}
    assert override(changed, back) == before
    assert override(before, {}) == before


@pytest.mark.parametrize("key", ["bacth", "step1.bacth", "step1.optimizer.lr.x", "nothing.at.all", "step1.", ""])
def test_override_names_a_key_that_does_not_exist(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(Settings(), {key: 1})
    assert repr(key) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("step1.batch", "many"), ("step1.batch", -1), ("network.crop", 33), ("step2.epochs", 0)],
)
def test_override_names_the_key_of_a_bad_value(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        override(Settings(), {key: value})
    assert f" {key}: " in str(caught.value)


# frozen


@pytest.mark.parametrize("key", ["seed", "step1.batch", "step1.optimizer.lr", "data.camera.focal"])
def test_settings_are_frozen(key: str) -> None:
    settings = Settings()
    *parents, last = key.split(".")
    node = at(settings, ".".join(parents)) if parents else settings
    with pytest.raises(ValidationError, match="frozen"):
        setattr(node, last, 1)
    assert settings == Settings()


def test_a_phase_names_groups_that_exist() -> None:
    with pytest.raises(ValidationError):
        Phase(epochs=1, train=("heads",))  # type: ignore[arg-type]


def test_yaml_keeps_small_numbers_and_every_key() -> None:
    settings = override(Settings(), {"step1.optimizer.lr": 8e-6, "losses.lambda_cos": 1e-6})
    values = yaml.safe_load(to_yaml(settings))
    assert values["step1"]["optimizer"]["lr"] == 8e-6
    assert values["losses"]["lambda_cos"] == 1e-6
    assert set(values) == set(Settings.model_fields)
    assert set(values["step1"]["optimizer"]) == set(OptimizerSettings.model_fields)


def test_a_file_may_change_a_preset(tmp_path: Path) -> None:
    text = "base: cpu\nobjects: [{mesh: a.stl}, {mesh: b.stl, unit: m}]\nstep1: {batch: 16}\n"
    settings = load_settings(write(tmp_path / "bench.yaml", text))
    cpu = load_preset("cpu")
    assert settings.name == "bench"
    assert settings.step1 == cpu.step1.model_copy(update={"batch": 16})
    assert (settings.network, settings.data, settings.step2) == (cpu.network, cpu.data, cpu.step2)
    quick = load_settings(write(tmp_path / "parts.yaml", text.partition("\n")[2]), base=load_preset("quick"))
    assert quick.network == load_preset("quick").network
    assert [(o.mesh, o.unit, o.view_cone_deg) for o in quick.objects] == [("a.stl", "mm", 30.0), ("b.stl", "m", 30.0)]
    with pytest.raises(ConfigError, match="no preset is called 'fast'"):
        load_settings(write(tmp_path / "none.yaml", "base: fast\n"))


def test_the_default_is_quick_on_features_of_photographs() -> None:
    """Seen from all sides, in heaps and among other things, as photographs show parts; all else is quick's."""
    photos, quick = load_preset("photos"), load_preset("quick")
    network = {"backbone": "timm/tf_efficientnet_lite0", "weights": "imagenet", "frozen": True, "frozen_blocks": 0}
    assert photos.network == quick.network.model_copy(update=network)
    around = {"companions": 4, "overlap": 0.8, "shapes": "things", "others": 2, "clutter": 10}
    occlusion = quick.data.occlusion.model_copy(update=around)
    assert photos.data == quick.data.model_copy(update={"backgrounds": "benches", "occlusion": occlusion})
    assert [(o.mesh, o.view_cone_deg) for o in photos.objects] == [("hammer", 180.0)]
    assert (photos.step1, photos.step2, photos.losses) == (quick.step1, quick.step2, quick.losses)
    assert starting_settings([]) == photos


def test_a_file_on_the_command_line_changes_the_default_and_brings_its_own_paths(tmp_path: Path) -> None:
    text = "objects: [{mesh: cad/a.stl}, {mesh: hammer, label: tool}]\ndata: {backgrounds: photos}\n"
    settings = starting_settings(["--preset", str(write(tmp_path / "my.yaml", text))])
    assert settings.network == load_preset("photos").network
    assert [o.mesh for o in settings.objects] == [str(tmp_path / "cad" / "a.stl"), "hammer"]
    assert settings.data.backgrounds == str(tmp_path / "photos")
    named = override(load_preset("quick"), {"data.backgrounds": "benches"})
    assert with_meshes(named, (Path("a.stl"),)).data.backgrounds == "benches"  # no folder
    here = override(load_preset("quick"), {"data.backgrounds": "photos"})
    assert with_meshes(here, (Path("a.stl"),)).data.backgrounds == str(Path("photos").resolve())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"detector.phases": [{"epochs": 1, "train": ["rpn"]}]}, "detector.phases: only step2"),
        ({"step2.phases": [{"epochs": 1, "train": []}]}, "step2.phases"),
        ({"losses.look_alikes": 3, "step2.batch": 6}, "step2.batch: 6 is no multiple of 4"),
        ({"losses.look_alikes": 3, "data.scene_images": 3}, "step2 has only 3 images"),
        ({"data.augmentation.contrast": [-1.0, 1.0]}, "data.augmentation.contrast"),
        ({"data.camera.focal": 20.0}, "data.camera.focal"),
        ({"data.camera.focal": float("inf")}, "data.camera.focal"),
        ({"data.camera.image_size": 96, "data.camera.box_side": [40, 60]}, "no smaller than network.crop"),
        ({"network.anchor_sizes": []}, "network.anchor_sizes"),
        ({"network.roi_samples": 3}, "network.roi_samples"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        override(Settings(), changes)


@pytest.mark.parametrize("crop", [48, 64, 80, 144])
def test_crops_of_any_size_have_a_canvas(crop: int) -> None:
    settings = override(load_preset("quick"), {"network.crop": crop})
    assert crop <= settings.view_canvas <= max(128, crop)
    assert (settings.view_canvas - crop) / 2 % 16 == 0


@pytest.mark.parametrize(("size", "canvas"), [(512, 512), (400, 384), (416, 416), (128, 128)])
def test_views_lie_on_the_encoders_grid(size: int, canvas: int) -> None:
    settings = override(Settings(), {"data.camera.image_size": size, "data.camera.box_side": [80, 120]})
    assert settings.view_canvas == canvas
    assert (settings.view_canvas - settings.network.crop) / 2 % 16 == 0


# a run's own


def test_a_runs_settings_are_read_whole_or_not_at_all(tmp_path: Path) -> None:
    """With its checksum, and, cut off, also without one: nothing takes the place of what was lost."""
    settings = override(load_preset("quick"), {"seed": 12})
    path = tmp_path / "config.yaml"
    save_run_settings(path, settings)
    assert load_run_settings(path) == load_settings(path) == settings
    marked, first = path.read_bytes(), path.read_text().index("\n") + 1
    for whole, step in ((marked, 61), (marked[first:], 61)):
        for offset in [*range(0, len(whole) - 12, step), *range(len(whole) - 12, len(whole))]:
            path.write_bytes(whole[:offset])
            with pytest.raises(ConfigError, match=r"config.yaml") as caught:
                load_run_settings(path)
            assert "\n" not in str(caught.value)
    path.write_bytes(marked[first:])
    assert load_run_settings(path) == settings, "a run of before"
    path.write_bytes(marked.replace(b"seed: 12", b"seed: 13"))
    with pytest.raises(ConfigError, match=r"config.yaml is damaged.*or, if you changed it, delete its first line"):
        load_run_settings(path)
    path.write_bytes(path.read_bytes()[first:])
    assert load_run_settings(path).seed == 13
    path.unlink()
    with pytest.raises(ConfigError, match=r"config.yaml cannot be read: No such file"):
        load_run_settings(path)


# bounds


def numbers(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every number of the settings, by its dotted key, with the list that it is in, if any."""
    for name, value in values.items() if isinstance(values, dict) else []:
        path = f"{key}.{name}".strip(".")
        if isinstance(value, dict):
            yield from numbers(value, path)
        elif isinstance(value, list):
            for place, item in enumerate(value):
                yield from numbers(item, f"{path}.{place}") if isinstance(item, dict) else ()
                if isinstance(item, int | float):
                    yield path, value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path, value


FULL = override(
    Settings(),
    {"step2.phases": [{"epochs": 1.0}], "objects.0.view_direction": [0.0, 0.0, 1.0]},
)


@pytest.mark.parametrize(("key", "value"), dict(numbers(FULL.model_dump(mode="json"))).items())
def test_every_number_has_bounds(key: str, value: Any) -> None:
    """What is absurd is refused in one line that names the setting, not tried."""
    for absurd in (99_999_999_999, 1e300, -1e300, float("inf"), float("nan"), 10**400):
        given = [absurd] * len(value) if isinstance(value, list) else absurd
        change = {"step2.phases": [{"epochs": given}]} if key.startswith("step2.phases") else {key: given}
        with pytest.raises(ConfigError) as caught:
            override(FULL, change)
        assert key in str(caught.value)
        assert "\n" not in str(caught.value)
