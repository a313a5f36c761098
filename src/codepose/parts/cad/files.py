"""Which reader reads a CAD file, and what is checked of every one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from codepose.parts.cad.gltf import read_gltf
from codepose.parts.cad.obj import read_obj
from codepose.parts.cad.off import read_off
from codepose.parts.cad.ply import read_ply
from codepose.parts.cad.step import read_step
from codepose.parts.cad.stl import read_stl
from codepose.parts.cad.surface import MeshError, Surface, check_count
from codepose.parts.cad.threemf import read_3mf

READERS: dict[str, Callable[[Path, bytes], list[Surface]]] = {
    ".ply": read_ply,
    ".obj": read_obj,
    ".stl": read_stl,
    ".glb": read_gltf,
    ".gltf": read_gltf,
    ".3mf": read_3mf,
    ".off": read_off,
    ".step": read_step,
    ".stp": read_step,
}
IN_MILLIMETRES = (".3mf", ".step", ".stp")  # formats whose files say their unit: what is read of them is in mm

_KINDS = "STEP, PLY, OBJ, STL, GLB or 3MF"
_ARCHIVES = (".zip", ".gz", ".tar", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
_LARGEST = 2 * 2**30  # bytes
_FARTHEST = 1e15  # units from the origin; what is farther is no part, and its square no number
_SHOWN = 20  # names in a message
_BLURRED = 1e-3  # of a part's size: the steps of single precision where it lies


def read_cad(path: Path, body: str = "") -> list[Surface]:
    """The surfaces in a CAD file, in its own frame and unit; a 3MF or STEP file's, which says its unit, in mm.

    Args:
        path: The file.
        body: Only those of the body or assembly of this name (`Surface.bodies`); empty = all.

    Raises:
        MeshError: The file is missing, of an unknown kind, too large, damaged, or without faces, single precision
            has blurred it, or no body has the name.
    """
    read = READERS.get(path.suffix.lower())
    if not path.is_file():
        raise MeshError(f"there is no file {path}; give the path of a {_KINDS} file")
    if read is None:
        raise MeshError(_unknown(path))
    size = path.stat().st_size
    if size == 0:
        raise MeshError(f"{path}: the file is empty; export the part again as {_KINDS}")
    if size > _LARGEST:
        raise MeshError(f"{path}: a file of {size:,} bytes is not read; export the part with a coarser mesh")
    try:
        with np.errstate(all="ignore"):  # what is no number is named below
            surfaces = [one for one in read(path, path.read_bytes()) if len(one.triangles)]
            check_count(sum(len(one.triangles) for one in surfaces))
    except MeshError as error:
        raise MeshError(f"{path}: {error}") from error
    except OSError as error:
        raise MeshError(f"{path}: the file cannot be read ({error.strerror}); check the path") from error
    except Exception as error:  # a damaged file may break a reader anywhere
        kind = path.suffix.upper().lstrip(".")
        raise MeshError(f"{path}: it is damaged, or no {kind} file; export the part again") from error
    if not surfaces:
        raise MeshError(f"{path}: the file has no faces; export the part as a surface, not as points")
    if body:
        surfaces = _of_body(path, surfaces, body)
    _check_places(path, surfaces)
    return surfaces


def body_names(surfaces: Iterable[Surface]) -> tuple[str, ...]:
    """What `read_cad` takes for ``body``: the names of the bodies and assemblies, in the file's order."""
    return tuple(dict.fromkeys(name for one in surfaces for name in one.bodies))


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, of very many the first."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _of_body(path: Path, surfaces: list[Surface], body: str) -> list[Surface]:
    found = [one for one in surfaces if body in one.bodies]
    if found:
        return found
    names = body_names(surfaces)
    if not names:
        raise MeshError(f"{path}: it names no bodies, so leave out --body {body}; STEP and GLB files may name them")
    raise MeshError(f"{path}: there is no body {body!r} in it; type --body with one of {listed(names)}")


def _unknown(path: Path) -> str:
    if path.suffix.lower() in _ARCHIVES:
        return f"{path}: an archive is no CAD file; unpack it and give the path of the {_KINDS} file in it"
    kind = f"a {path.suffix} file" if path.suffix else "a file without a suffix"
    return f"{path}: {kind} cannot be read; export the part as {_KINDS}"


def _check_places(path: Path, surfaces: list[Surface]) -> None:
    """Refuses corners that are no numbers, and a part so far away that its numbers cannot tell its corners apart."""
    for one in surfaces:
        wrong = ~(np.abs(one.triangles) < _FARTHEST).all(axis=2)
        if wrong.any():
            raise MeshError(
                f"{path}: {int(wrong.sum())} corners of faces are not finite numbers, or absurdly far away; "
                "export the part again"
            )
    low = np.min([one.triangles.min(axis=(0, 1)) for one in surfaces], axis=0)
    high = np.max([one.triangles.max(axis=(0, 1)) for one in surfaces], axis=0)
    far, size = float(np.abs([low, high]).max()), float(np.linalg.norm(high - low))
    if np.spacing(np.float32(far)) <= _BLURRED * size or size == 0:
        return
    if all((one.triangles == one.triangles.astype(np.float32)).all() for one in surfaces):
        raise MeshError(
            f"{path}: the part is {far:,.0f} units from the file's origin and {size:.3g} across, and its numbers are "
            f"in single precision, in steps of {np.spacing(np.float32(far)):.3g} there: its shape is lost; export it "
            "with an origin near the part, or in double precision"
        )
