"""Trained networks on the Hugging Face Hub: pushed with a model card, pulled as a run folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
)

from codepose.estimation.methods import STAGES, trained_methods
from codepose.runtime.run import Run, RunError, opened
from codepose.settings.errors import ConfigError

_CARD = "README.md"
_SHARED = ("config.yaml", "meshes/*", "codebooks/*", "confidence/*")
"""What inference needs besides weights; training's checkpoints and logs stay at home."""
_TAGS = ["6d-pose-estimation", "object-detection", "robotics", "cad"]
_UNREACHABLE = cast("tuple[type[Exception], ...]", (*HfHubHTTPError.__bases__, LocalEntryNotFoundError))
"""What a broken connection raises, whichever HTTP library the Hub's own is made with; and what a disk does."""
_Result = TypeVar("_Result")


def push(run: Run | str | Path, repo: str, *, public: bool = False) -> str:
    """Uploads what inference needs of a trained run, with a model card, to the Hugging Face Hub.

    The part's mesh goes with it: without one there are no poses. The repository is private unless it is asked for
    otherwise, and one that exists stays as private as it is. A run's own README.md is its card.

    Args:
        run: A trained run, its folder, or "hammer"; a packed one is half as large.
        repo: "OWNER/NAME"; made if needed.
        public: Whether a new repository is to be seen by everybody.

    Returns:
        The repository's address.

    Raises:
        RunError: No method is trained.
        ConfigError: The Hub refuses it, cannot be reached, or nobody is logged in.
    """
    run, api = opened(run), HfApi()
    methods = trained_methods(run)
    if not methods:
        raise RunError(f"{run.path} is not trained yet: {run.resume_command}")
    weights = [f"{stage}/weights.safetensors" for stage in sorted({s for m in methods for s in STAGES[m]})]

    def upload() -> str:
        address = str(api.create_repo(repo, private=not public, exist_ok=True))
        api.create_commit(repo, _additions(run, repo, [*_SHARED, *weights]), commit_message="A run of codepose")
        return address

    return _with_hub(repo, upload)


def pull(repo: str, out: str | Path, *, revision: str | None = None) -> Run:
    """Downloads a run from the Hugging Face Hub; nothing is left behind where that fails.

    It holds numbers, meshes and settings, and nothing that is executed.

    Args:
        repo: "OWNER/NAME".
        out: New folder.
        revision: A branch, tag or commit; None = the newest.

    Returns:
        The run.

    Raises:
        RunError: ``out`` exists, or the repository holds no trained run.
        ConfigError: The Hub has no such repository or revision, or cannot be reached.
    """
    out = Path(out)
    if out.exists():
        raise RunError(f"{out} exists: choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as part:
        folder = Path(part) / "run"
        wanted = [*_SHARED, "*/weights.safetensors", _CARD]
        _with_hub(
            repo,
            lambda: HfApi().snapshot_download(repo, revision=revision, local_dir=folder, allow_patterns=wanted),
        )
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # what the Hub's library notes for itself
        if not (folder / "config.yaml").is_file() or not trained_methods(Run.open(folder)):
            raise RunError(f"{repo} holds no trained run of codepose")
        folder.rename(out)
    return Run.open(out)


def card(run: Run, repo: str) -> str:
    """Returns a run's model card: what it finds, what its photos are to be like, and what to type."""
    camera = run.settings.data.camera
    far, near = (side / camera.image_size for side in camera.box_side)
    data = ModelCardData(library_name="codepose", tags=_TAGS)
    name = repo.rsplit("/", 1)[-1]
    lines = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        "Finds these rigid parts in colour photos and says how they lie (6-D pose), on a CPU:",
        "\n".join(f"- {item.name}" for item in run.settings.objects),
        f"It was trained by [codepose](https://pypi.org/project/codepose) on renders of their CAD models alone, "
        f"{camera.image_size} pixels a side, in which a part's box takes {far:.0%} to {near:.0%} of the side.",
        f"```bash\npip install codepose\ncodepose pull {repo} {name}\n"
        f"codepose predict {name} photo.png --K fx,fy,cx,cy\n```",
        "`codepose evaluate` measures it on renders, `codepose evaluate --bop` on labelled photos.",
    ]
    return str(ModelCard("\n\n".join(lines) + "\n").content)


def _additions(run: Run, repo: str, patterns: list[str]) -> list[CommitOperationAdd]:
    """A run's files that match, and its card, as one commit adds them."""
    files = sorted({file for pattern in [*patterns, _CARD] for file in run.path.glob(pattern) if file.is_file()})
    added = [CommitOperationAdd(file.relative_to(run.path).as_posix(), file) for file in files]
    if not (run.path / _CARD).is_file():
        added.append(CommitOperationAdd(_CARD, card(run, repo).encode()))
    return added


def _with_hub(repo: str, do: Callable[[], _Result]) -> _Result:
    """Says in one line what the Hub answers."""
    try:
        return do()
    except HFValidationError as error:
        raise ConfigError(f"{repo} is no OWNER/NAME of the Hugging Face Hub: {error}") from None
    except LocalTokenNotFoundError:
        raise ConfigError("nobody is logged in to the Hugging Face Hub: type hf auth login, or set HF_TOKEN") from None
    except HfHubHTTPError as error:
        said = str(error.server_message or error).strip().splitlines()
        raise ConfigError(f"the Hugging Face Hub refuses {repo}: {said[-1] if said else error}") from None
    except _UNREACHABLE as error:
        raise ConfigError(f"the Hugging Face Hub cannot be reached: {str(error).splitlines()[0]}") from None
