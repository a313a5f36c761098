"""A run folder: settings, and for every stage its metrics, TensorBoard log, checkpoint and final weights."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import nn

from codepose.parts.mesh import load_mesh, save_mesh
from codepose.parts.shapes import BUILTIN
from codepose.parts.symmetry_group import Symmetries, declared_symmetries
from codepose.runtime.checkpoint import CheckpointError, load_state, save_state
from codepose.runtime.ranks import from_first
from codepose.settings.data import ObjectSettings
from codepose.settings.files import load_run_settings, save_run_settings
from codepose.settings.schema import Settings
from codepose.storage.checksums import EMPTY, MARK, DamagedError, require_whole, seal, write_json
from codepose.storage.locks import LockedError, holding
from codepose.storage.replace import remove_leftovers, replacing, write_atomically


class RunError(ValueError):
    """A run folder that cannot be used as asked; the text says what to type."""


def pretrained() -> dict[str, Path]:
    """Returns the folders of the trained networks inside the package, by name."""
    home = Path(__file__).parents[1] / "pretrained"
    return {p.parent.name: p.parent for p in sorted(home.glob("*/config.yaml"))}


class Run:
    """One folder of one training, safe against interruption at any moment.

    ``config.yaml``; ``meshes/``, the CAD models in mm with the symmetries that were declared, so that the folder can
    be moved; and per stage ``STAGE/metrics.jsonl``, ``STAGE/tensorboard/``, ``STAGE/validation.png``,
    ``STAGE/checkpoint.safetensors`` (while it trains) and ``STAGE/weights.safetensors`` (when it is done). Settings,
    meshes, checkpoints and weights carry checksums (``storage/checksums.py``). Who trains it holds ``train.lock``.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.settings = settings

    @classmethod
    def create(cls, path: str | Path, settings: Settings, *, resume: bool = False) -> Self:
        """Makes a run folder, or goes on with an existing one; with several ranks the first one does.

        A resumed run may change how it computes and what happens after training (``_CHANGEABLE``), not what it
        learns; it goes on with its own copies of the CAD models.

        Raises:
            RunError: The folder holds a run and ``resume`` is off, or it was made with other settings.
        """
        return from_first(lambda: cls._create(Path(path), settings, resume))

    @classmethod
    def _create(cls, path: Path, settings: Settings, resume: bool) -> Self:
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file: choose another --out")
        config = path / "config.yaml"
        if path.is_dir():
            for folder in (path, *(inner for inner in path.iterdir() if inner.is_dir())):
                remove_leftovers(folder)
            if not config.exists() and any(inner.name != _LOCK for inner in path.iterdir()):
                raise RunError(f"{path} exists, is not empty, and holds no run: choose another --out")
        path.mkdir(parents=True, exist_ok=True)
        with _lock(path):
            fresh = not config.exists()
            if not fresh:
                if not resume:
                    raise RunError(
                        f"{path} already holds a run: type --resume to go on with it, or choose another --out"
                    )
                settings = _resumed(path, load_run_settings(config), settings)
            save_run_settings(config, settings)  # first: what is interrupted from here on can be resumed
            try:
                return cls(path, _with_own_meshes(path, settings))
            except (ValueError, OSError):
                if fresh:  # the folder was empty
                    config.unlink()
                    shutil.rmtree(path / "meshes", ignore_errors=True)
                raise

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Opens an existing run folder, or one of the trained networks that codepose brings ("hammer").

        Raises:
            RunError: There is none.
        """
        name, path = str(path), Path(path)
        if not path.exists() and name in pretrained():
            path = pretrained()[name]
        if not (path / "config.yaml").is_file():
            brought = f" (or use one that codepose brings: {', '.join(pretrained())})" if pretrained() else ""
            raise RunError(f"{path} is no run folder: it has no config.yaml; train one with `codepose train`{brought}")
        return cls(path, _with_own_meshes(path, load_run_settings(path / "config.yaml")))

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Keeps other trainings away from the run; of several ranks the first one does.

        Raises:
            RunError: Another process trains it; the text says which.
        """
        with contextlib.ExitStack() as held:
            from_first(lambda: held.enter_context(_lock(self.path)))
            yield

    @property
    def resume_command(self) -> str:
        """What to type to go on with its training."""
        return shlex.join(["codepose", "train", "--out", str(self.path), "--resume"])

    def require_own(self) -> None:
        """Refuses to write results into the installed package.

        Raises:
            RunError: The run is one that codepose brings.
        """
        if self.path in pretrained().values():
            raise RunError(
                f"{self.path.name} belongs to codepose itself: `codepose demo --pretrained` evaluates a copy in "
                "runs/pretrained, which `codepose evaluate runs/pretrained` takes, too"
            )

    def stage(self, name: str) -> Path:
        """Returns the folder of a stage, made if needed."""
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        return folder

    def picture(self, stage: str) -> Path:
        """Returns where a stage that was validated has a picture of what its network made of a few images then."""
        return self.path / stage / "validation.png"

    def has(self, stage: str) -> bool:
        """Whether a stage is done."""
        return (self.path / stage / "weights.safetensors").is_file()

    def begun(self, stage: str) -> bool:
        """Whether a stage that is not done has a checkpoint to go on from."""
        return (self.path / stage / "checkpoint.safetensors").is_file()

    def save_weights(self, stage: str, network: nn.Module) -> None:
        """Writes a stage's final weights and removes its checkpoint."""
        folder = self.stage(stage)
        save_state(folder / "weights.safetensors", network.state_dict())
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)

    def load_weights(self, stage: str, network: nn.Module) -> None:
        """Fills a network with a finished stage's weights.

        Raises:
            RunError: The stage is not done, or its weights do not fit.
        """
        if not self.has(stage):
            advice = f"finish it with `{self.resume_command}`"
            if self.path in pretrained().values():
                advice = "only the joint method comes with codepose"
            raise RunError(f"{self.path} has no finished {stage!r} stage; {advice}")
        path, again = self.path / stage / "weights.safetensors", f"train it again with `{self.resume_command}`"
        try:
            network.load_state_dict(load_state(path))
        except CheckpointError as error:
            raise RunError(f"{error}: restore it from a copy, or delete it and {again}") from None
        except (RuntimeError, TypeError, AttributeError):
            raise RunError(f"{path} does not fit its config.yaml: restore both, or delete it and {again}") from None

    def save_checkpoint(self, stage: str, state: dict[str, Any]) -> None:
        """Writes a stage's whole training state, atomically."""
        save_state(self.stage(stage) / "checkpoint.safetensors", state)

    def load_checkpoint(self, stage: str) -> dict[str, Any] | None:
        """Returns the last saved state of a stage, or None.

        Raises:
            RunError: It is damaged.
        """
        path = self.path / stage / "checkpoint.safetensors"
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = load_state(path)
        except CheckpointError as error:
            raise RunError(f"{error}; restore it from a copy, or delete it: the stage then begins again") from None
        return state

    def metrics(self, stage: str) -> Iterator[dict[str, Any]]:
        """Yields the records of a stage's metrics.jsonl; a line cut short by a crash, or damaged, is skipped."""
        path = self.path / stage / "metrics.jsonl"
        if not path.is_file():
            return
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, RecursionError):  # no JSON, 5,000 digits, 100,000 brackets
                record = json.loads(line)
                if isinstance(record, dict) and isinstance(record.get("step"), int):
                    yield record


_LOCK = "train.lock"


def opened(run: Run | str | Path) -> Run:
    """Returns the run, or opens its folder; see ``Run.open``."""
    return run if isinstance(run, Run) else Run.open(run)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds a run's lock."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(holding(path / _LOCK))
        except LockedError as error:
            raise RunError(
                f"{path} is being trained by {error}: let it finish or stop it, or choose another --out"
            ) from None
        yield


_CHANGEABLE = ("precision", "compile", "detection", "refinement", "codebook")
"""Settings that a resumed run may change; but the codebook's canvas, on which Step 2 encodes its clean views."""
_RHYTHM = ("checkpoint_every", "validations")
"""Those of a stage."""


def _resumed(path: Path, stored: Settings, wanted: Settings) -> Settings:
    """The settings to go on with: those wanted, of the objects that the run has."""
    if changes := _changes(_decisive(stored), _decisive(wanted)):
        raise RunError(
            f"{path} was made with other settings ({'; '.join(changes[:3])}{'; ...' if changes[3:] else ''}): --resume "
            f"without any goes on with it as it was; for these choose another --out"
        )
    objects = []
    for number, (old, new) in enumerate(zip(stored.objects, wanted.objects, strict=True), start=1):
        own = _own_mesh(path, number)
        if own.exists() and Path(new.mesh).exists() and not _same_part(own, new):
            raise RunError(f"{new.mesh} is not the part that {path} was begun with: choose another --out")
        objects.append(old if own.exists() else new)
    return wanted.model_copy(update={"objects": tuple(objects)})


def _decisive(settings: Settings) -> dict[str, Any]:
    """What a training depends on, but for the places of the CAD models."""
    values = settings.model_dump(mode="json", exclude=set(_CHANGEABLE)) | {"canvas": settings.codebook.canvas}
    for stage in (values[name] for name in ("step1", "original", "detector", "step2")):
        for key in _RHYTHM:
            del stage[key]
    for one in values["objects"]:
        one["mesh"] = one["mesh"] if one["mesh"] in BUILTIN else ""
        del one["unit"], one["body"], one["label"]
    return values


def _changes(old: Any, new: Any, name: str = "") -> list[str]:
    """What differs between settings, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        found = [_changes(old.get(key), new.get(key), f"{name}.{key}".strip(".")) for key in keys]
        return [change for changes in found for change in changes]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        found = [_changes(a, b, f"{name}.{i}") for i, (a, b) in enumerate(zip(old, new, strict=True))]
        return [change for changes in found for change in changes]
    return [] if old == new else [f"{name} was {old}, not {new}"]


def _same_part(own: Path, given: ObjectSettings) -> bool:
    """Whether a CAD file still holds what the run copied, by its size, its faces and its colours."""
    old = load_mesh(own, center=False)
    new = load_mesh(given.mesh, unit=given.unit, center=False, body=given.body)
    return (
        len(old.faces) == len(new.faces)
        and bool(np.allclose(old.extents, new.extents, rtol=1e-4, atol=1e-4 * old.diameter))
        and bool(np.allclose(old.center, new.center, rtol=1e-4, atol=1e-4 * old.diameter))
        and bool(np.allclose(old.colors.mean(0), new.colors.mean(0), atol=0.01))
    )


def _with_own_meshes(path: Path, settings: Settings) -> Settings:
    """Puts the CAD models into the run folder, in mm, where they are missing; returns settings that name these.

    A file of declared symmetries is kept beside its mesh, reduced to the object's own entry.
    """
    objects = []
    for number, given in enumerate(settings.objects, start=1):
        item = given
        if item.symmetries not in ("auto", "none"):
            item = item.model_copy(update={"symmetries": str(_own_symmetries(path, item, number))})
        if item.mesh in BUILTIN:
            objects.append(item)
            continue
        own = _own_mesh(path, number)
        if own.exists():
            _require_whole(own, item.mesh)
        else:
            mesh = load_mesh(item.mesh, unit=item.unit, center=False, body=item.body)
            own.parent.mkdir(exist_ok=True)
            with replacing(own) as new:
                save_mesh(mesh, new)
                _give_place(new)
                seal(new)
        objects.append(item.model_copy(update={"mesh": str(own), "unit": "mm", "body": "", "label": item.name}))
    return settings.model_copy(update={"objects": tuple(objects)})


def _give_place(ply: Path) -> None:
    """Puts a place for its checksum into a PLY file's header, behind the line that names the format."""
    magic, form, rest = ply.read_bytes().split(b"\n", 2)
    ply.write_bytes(b"\n".join((magic, form, f"comment {MARK} {EMPTY}".encode(), rest)))


def _require_whole(own: Path, source: str) -> None:
    """Checks the run's copy of a file that its settings named."""
    try:
        require_whole(own)
    except DamagedError as error:
        raise RunError(f"{error}; restore it from a copy, or delete it: it is then made again from {source}") from None


def _own_mesh(path: Path, number: int) -> Path:
    return path / "meshes" / f"{number}.ply"


def _own_symmetries(path: Path, item: ObjectSettings, number: int) -> Path:
    """The run's copy of an object's declared symmetries, written if it is missing."""
    own = path / "meshes" / f"{number}.symmetries.json"
    if own.exists():
        _require_whole(own, item.symmetries)
    else:
        declared = declared_symmetries(item, number) or Symmetries.none()
        own.parent.mkdir(exist_ok=True)
        write_json(own, declared.to_bop())
    return own


class MetricsLog:
    """Appends records to a stage's metrics.jsonl and TensorBoard; a resumed stage drops what it will log again."""

    def __init__(self, run: Run, stage: str, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.stage(stage)
        kept = [r for r in run.metrics(stage) if r["step"] <= first_step]
        write_atomically(folder / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in kept))
        self._file = open(folder / "metrics.jsonl", "a")  # noqa: SIM115 - closed by close()
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record; 'step' numbers it, numbers are drawn by TensorBoard."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for key, value in record.items():
            if isinstance(value, int | float) and key != "step":
                self._board.add_scalar(key, value, record["step"])

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        self._board.close()
