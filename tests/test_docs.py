"""The documentation is checked: its commands parse, its snippets run, its names exist."""

from __future__ import annotations

import datetime as dt
import pkgutil
import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
import yaml
from PIL import Image

from codepose.cli.chosen import starting_settings, with_meshes
from codepose.cli.invocation import COMMAND_OPTIONS
from codepose.cli.main import COMMANDS
from codepose.networks import faster_rcnn
from codepose.networks.build import build_joint
from codepose.runtime.run import Run
from codepose.settings.files import PRESETS, load_preset, load_settings
from codepose.settings.schema import Settings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md"), ROOT / "CONTRIBUTING.md"])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def shell_lines() -> list[str]:
    """The commands of the pages that say what is so today; the log says what was typed on its day."""
    lines = []
    for page in PAGES:
        if page.parent.name == "log":
            continue
        for block in blocks(page, "bash"):
            lines += [line.split("  #")[0].strip() for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    return lines


@pytest.mark.parametrize("line", [x for x in shell_lines() if x.startswith("codepose ")])
def test_documented_commands_parse(line: str) -> None:
    command, *arguments = takewhile(lambda word: word not in ("|", ">"), shlex.split(line)[1:])
    assert command in COMMANDS
    tyro.cli(COMMAND_OPTIONS[command], args=arguments)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_example_settings_can_be_trained_with_a_mesh(path: Path) -> None:
    settings = with_meshes(starting_settings(["--preset", str(path)]), (Path("part.ply"),))
    assert [o.label for o in settings.objects] == ["part"]
    assert settings.objects[0].view_direction == load_settings(path).objects[0].view_direction


@pytest.mark.parametrize("line", [x for x in shell_lines() if x.startswith("make ")])
def test_documented_make_targets_exist(line: str) -> None:
    target = shlex.split(line)[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_modules_and_tests_that_make_mutation_names_exist() -> None:
    modules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutation"]
    gone = [name for name in modules if not (ROOT / "src" / "codepose" / f"{name}.py").exists()]
    for file, _, name in (test.partition("::") for tests in modules.values() for test in tests):
        if not (ROOT / file).exists() or f"def {name}" not in (ROOT / file).read_text():
            gone.append(f"{file}::{name}")
    assert gone == []


def test_the_readme_documents_every_command() -> None:
    text = (ROOT / "README.md").read_text()
    for command in COMMANDS:
        assert f"codepose {command}" in text or f"make {command}" in text, command


def test_the_readmes_python_runs(
    tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    run = Run.create(tmp_path / "runs" / "part", tiny_settings)
    torch.manual_seed(0)
    run.save_weights("step2", build_joint(tiny_settings))
    Image.new("RGB", (64, 48), (90, 90, 90)).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    snippets = blocks(ROOT / "README.md", "python")
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_pictures_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http", "mailto")):
            assert (page.parent / target).exists(), target


def leaves(nav: Any) -> Iterator[str]:
    """The pages that the navigation of mkdocs.yml names."""
    for entry in nav if isinstance(nav, list) else nav.values():
        if isinstance(entry, str):
            yield entry
        else:
            yield from leaves(entry)


def test_the_site_shows_every_page_once() -> None:
    nav = sorted(leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert nav == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if not page.match("log/20*"))


def test_the_log_is_dated_and_its_index_names_every_page() -> None:
    index = (DOCS / "log" / "index.md").read_text()
    days = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", index, re.DOTALL | re.MULTILINE))
    for page in set((DOCS / "log").glob("*.md")) - {DOCS / "log" / "index.md"}:
        assert f"]({page.name})" in days[str(dt.date.fromisoformat(page.name[:10]))], page.name


def prose(page: Path) -> Iterator[str]:
    """The lines of a page that are neither code nor tables, without what stands in backticks."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = (re.sub(r"^[ #]*\d+\.", "", line) for line in text.splitlines() if not line.lstrip().startswith("|"))
    return (re.sub(r"`[^`]*`", "``", line) for line in lines)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_line_holds_one_sentence(page: Path) -> None:
    for line in prose(page):
        found = re.search(r"(?<!\.\.)[.?!](?:\*\*|[)\"])? (?=[A-Z`*\[])", line)
        assert not found, f"begin a new line after {line[: found.end()]!r}"


@pytest.mark.parametrize(
    ("page", "words"), [("README.md", 900), ("docs/results.md", 1200), ("docs/performance.md", 1200)]
)
def test_front_pages_are_short(page: str, words: int) -> None:
    """What does not fit belongs into docs/log."""
    assert len((ROOT / page).read_text().split()) <= words


def test_the_api_pages_name_what_exists() -> None:
    names = [
        name for page in (DOCS / "api").glob("*.md") for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)
    ]
    assert len(names) > 30
    for name in names:
        assert pkgutil.resolve_name(name).__doc__, name


def test_the_method_page_names_functions_that_exist() -> None:
    text = (ROOT / "docs" / "method.md").read_text()
    table = text.split("## Equation")[1].split("## Losses")[0]
    pairs = re.findall(r"`([\w/]+\.py) : ([\w.]+)`", table)
    assert len(pairs) >= 12
    for file, name in pairs:
        source = (ROOT / "src" / "codepose" / file).read_text()
        for part in name.split("."):
            assert re.search(rf"(def|class) {part}\b", source), f"{file}: {part}"


def test_the_method_page_states_the_papers_settings() -> None:
    text = (ROOT / "docs" / "method.md").read_text()
    for name in (name for name in PRESETS if name.startswith("paper-")):
        settings = load_preset(name)
        assert (settings.data.textures, settings.precision, settings.data.seed) == (192, "auto", 0)
        network, detection = settings.network, settings.detection
        assert (network.proposals, network.box_head, network.roi_samples) == (1000, 1024, 128)
        assert (detection.score, detection.nms, detection.per_object) == (0.05, 0.5, 10)
    assert (faster_rcnn.RPN_IOU, faster_rcnn.HEAD_IOU) == ((0.3, 0.7), (0.5, 0.5))
    assert (faster_rcnn.RPN_SAMPLES, faster_rcnn.RPN_SHARE, faster_rcnn.HEAD_SHARE) == (256, 0.5, 0.25)
    assert faster_rcnn.RPN_NMS == 0.7
    for words in (
        "192 pictures",
        "256 anchors an image",
        "2,000 best",
        "500 of 1,000",
        "128 RoIs",
        "`precision: auto`",
    ):
        assert words in text


def test_the_example_runs(tiny_settings: Settings, tmp_path: Path, capsys) -> None:
    run = Run.create(tmp_path / "run", tiny_settings)
    run.save_weights("step2", build_joint(tiny_settings))
    code = compile((ROOT / "examples" / "poses_from_renders.py").read_text(), "example", "exec")
    names: dict = {"__name__": "example"}
    exec(code, names)
    names["main"](str(tmp_path / "run"), count=3)
    assert capsys.readouterr().out.count("\n") == 3


@pytest.mark.slow
def test_the_example_of_the_translations_error_runs(capsys) -> None:
    names: dict = {"__name__": "example"}
    exec(compile((ROOT / "examples" / "translation_error.py").read_text(), "example", "exec"), names)
    names["main"](count=8)
    said = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    medians = [float(words.split()[1]) for words in said.values()]
    assert medians[1] < 0.01 < 5.0 < medians[0]


def flat(values: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every setting of a dumped preset by its name, of several objects the first one's."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from flat(value, f"{path}.{key}" if path else key)
    elif path == "objects":
        yield from flat(values[0], "objects.0")
    elif path.endswith(".phases"):
        shares = (f"{phase['epochs']:g}: {', '.join(phase['train'])}" for phase in values)
        yield path, "; ".join(shares) or "none"
    elif isinstance(values, tuple):
        yield path, ", ".join(f"{value:g}" for value in values)
    else:
        yield path, f"{values:g}" if isinstance(values, float) else str(values)


def preset_table() -> str:
    """The table of docs/presets.md."""
    names = ("paper-128-t1", "photos", "quick", "cpu", "robust")
    presets = [dict(flat(load_preset(name).model_dump())) for name in names]
    rhythm = (".checkpoint_every", ".validations")
    rows = [f"| setting | {' | '.join(names)} |", "|---|---|---|---|---|---|"]
    for key in presets[0]:
        values = [preset[key] for preset in presets]
        if len(set(values)) > 1 and key != "name" and not key.endswith(rhythm):
            rows.append(f"| `{key}` | {' | '.join(values)} |")
    return "\n".join(rows)


def test_the_presets_page_is_true() -> None:
    assert (ROOT / "docs" / "presets.md").read_text().split("\n\n")[-1] == preset_table() + "\n"
