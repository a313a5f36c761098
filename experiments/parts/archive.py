"""All parts in one file: meshes split at their creases, and the rotations after which each looks the same."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from codepose.parts.mesh import Mesh
from codepose.parts.symmetry_group import Symmetries
from codepose.parts.textures import NEUTRAL

STEP_DEG = 10.0  # between the turns that stand for a continuous axis
_GRID = 256.0  # steps a mm of what is stored: zeros at a number's end compress


@dataclass(frozen=True, eq=False)
class Part:
    """One part.

    Attributes:
        family: What kind of part it is.
        mesh: 100 mm across, its bounding box's middle at the origin.
        symmetries: In the mesh's frame, mm.
    """

    family: str
    mesh: Mesh
    symmetries: Symmetries


def equivalent(symmetries: Symmetries) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All turns after which a part looks the same, the identity first, a continuous axis in steps of 10 degrees.

    Returns:
        (S, 3, 3) rotations and (S, 3) translations in mm that go with them. For a ball the 60 turns of the icosahedron.
    """
    if symmetries.ball:
        turns = Rotation.create_group("I").as_matrix()
        middle = symmetries.continuous[0].offset
        return turns, middle - turns @ middle
    fixed = np.concatenate([np.eye(4)[None], symmetries.discrete])
    R, t = fixed[:, :3, :3], fixed[:, :3, 3]
    for one in symmetries.continuous:
        angles = np.radians(np.arange(0.0, 360.0, STEP_DEG))
        spin = Rotation.from_rotvec(angles[:, None] * one.axis).as_matrix()[:, None]  # (36, 1, 3, 3)
        t = ((spin @ (t - one.offset)[..., None])[..., 0] + one.offset).reshape(-1, 3)
        R = (spin @ R).reshape(-1, 3, 3)
    return R, t


def save_archive(parts: Sequence[Part], path: Path) -> None:
    """Write all parts to one compressed .npz, at once in place of what was there; see ``load_archive``."""
    meshes = [part.mesh for part in parts]
    groups = [equivalent(part.symmetries) for part in parts]
    hulls = [KDTree(m.vertices).query(m.hull)[1] for m in meshes]
    arrays: dict[str, Any] = {
        "vertices": np.round(np.concatenate([m.vertices for m in meshes]) * np.float32(_GRID)) / np.float32(_GRID),
        "normals": (np.round(np.concatenate([m.normals for m in meshes]) * 512) / 512).astype(np.float16),
        "faces": np.concatenate([m.faces for m in meshes]),
        "symmetries": np.concatenate([R for R, _ in groups]).astype(np.float32),
        "symmetry_translations": np.concatenate([t for _, t in groups]).astype(np.float32),
        "hull": np.concatenate(hulls).astype(np.int32),
        "grip": np.stack([m.grip for m in meshes]),
        "diameter": np.array([m.diameter for m in meshes]),
        "names": np.array([m.name for m in meshes]),
        "family": np.array([part.family for part in parts]),
        "bop": np.array([json.dumps(part.symmetries.to_bop()) for part in parts]),
    }
    for name, counts in (
        ("vertex", [len(m.vertices) for m in meshes]),
        ("face", [len(m.faces) for m in meshes]),
        ("hull", [len(h) for h in hulls]),
        ("symmetry", [len(R) for R, _ in groups]),
    ):
        arrays[f"{name}_count"] = np.array(counts, np.int64)
        arrays[f"{name}_start"] = np.cumsum(counts) - counts
    new = path.with_suffix(".new.npz")
    np.savez_compressed(new, **arrays)
    os.replace(new, path)


def load_archive(path: str | Path) -> list[Part]:
    """The parts of an archive, neutral grey.

    The file holds ``vertices`` (V, 3) mm, ``normals`` (V, 3), ``faces`` (F, 3) and ``hull`` (H,), the last two local to
    their mesh, of all parts one after the other; ``symmetries`` (T, 3, 3) and ``symmetry_translations`` (T, 3) mm, of
    each part the identity first; ``{vertex,face,hull,symmetry}_{start,count}`` (P,); ``names``, ``family``,
    ``diameter`` and ``bop`` (P,), the last the symmetries as in BOP's models_info.json; ``grip`` (P, 2, 3) mm.
    """
    with np.load(path) as stored:
        data = {name: stored[name] for name in stored.files}

    def of(i: int, array: str, kind: str) -> Any:
        return data[array][data[f"{kind}_start"][i] :][: data[f"{kind}_count"][i]]

    parts = []
    for i, name in enumerate(data["names"]):
        vertices, normals = of(i, "vertices", "vertex"), of(i, "normals", "vertex").astype(np.float32)
        mesh = Mesh(
            name=str(name),
            vertices=vertices,
            faces=of(i, "faces", "face"),
            normals=normals / np.linalg.norm(normals, axis=1, keepdims=True),
            colors=np.full_like(vertices, np.float32(NEUTRAL / 255.0)),
            diameter=float(data["diameter"][i]),
            hull=vertices[of(i, "hull", "hull")],
            grip=data["grip"][i],
        )
        parts.append(Part(str(data["family"][i]), mesh, Symmetries.from_bop(json.loads(str(data["bop"][i])))))
    return parts
