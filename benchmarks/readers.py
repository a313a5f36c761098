"""What our readers make of the CAD files in a folder, beside trimesh and Assimp: `python -m benchmarks.readers DIR`.

Prints a line for every file: the area of what was read, or that it was refused (ours: why), and at the end how often
each peer has another area or other bounds than ours. Assimp (`pip install assimp-py`) reads in a process of its own,
since it may crash. A difference says only that one of the two is wrong: read the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray

from codepose.parts.cad.files import READERS, read_cad
from codepose.parts.mesh import MeshError

_TOLERANCE = 1e-4
_TIMEOUT = 60  # seconds
_ASSIMP = """
import json, sys
import assimp_py as assimp, numpy as np
scene = assimp.import_file(sys.argv[1], assimp.Process_Triangulate | assimp.Process_PreTransformVertices)
whole = [mesh for mesh in scene.meshes if mesh.num_faces * 3 == mesh.num_indices]
found = [np.asarray(m.vertices).reshape(-1, 3)[np.asarray(m.indices).reshape(-1, 3)] for m in whole]
print(json.dumps(np.concatenate(found).tolist() if found else []))
"""


def ours(path: Path) -> NDArray[np.float64]:
    """(F, 3, 3) what `read_cad` reads."""
    return np.concatenate([surface.triangles for surface in read_cad(path)])


def trimeshs(path: Path) -> NDArray[np.float64]:
    """(F, 3, 3) what trimesh reads."""
    parts = [part for part in trimesh.load_scene(str(path), process=False).dump() if isinstance(part, trimesh.Trimesh)]
    return np.concatenate([np.asarray(part.vertices, np.float64)[part.faces] for part in parts])


def assimps(path: Path) -> NDArray[np.float64]:
    """(F, 3, 3) what Assimp reads."""
    done = subprocess.run([sys.executable, "-c", _ASSIMP, str(path)], capture_output=True, timeout=_TIMEOUT, check=True)
    return np.asarray(json.loads(done.stdout), np.float64).reshape(-1, 3, 3)


def area(triangles: NDArray[np.float64]) -> float:
    """In the square of the file's unit."""
    sides = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    return float(np.linalg.norm(sides, axis=1).sum()) / 2


def alike(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether area and bounds agree to a ten-thousandth."""
    if len(other) == 0 or abs(area(one) - area(other)) > _TOLERANCE * area(one):
        return False
    bounds = [np.stack([found.min(axis=(0, 1)), found.max(axis=(0, 1))]) for found in (one, other)]
    return bool(np.abs(bounds[0] - bounds[1]).max() <= _TOLERANCE * np.ptp(bounds[0]))


def main(folder: Path) -> None:
    """Compares every file under a folder."""
    counts: Counter[str] = Counter()
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in READERS):
        try:
            mine = ours(path)
        except MeshError as error:
            counts["refused by ours"] += 1
            print(f"{path.relative_to(folder)}: refused: {str(error).removeprefix(f'{path}: ')}")
            continue
        words = [f"area {area(mine):.6g}"]
        for name, read in (("trimesh", trimeshs), ("Assimp", assimps)):
            try:
                theirs = read(path)
                verdict = "alike" if alike(mine, theirs) else f"area {area(theirs):.6g}"
            except Exception as error:  # whatever another reader raises
                verdict = f"none ({type(error).__name__})"
            counts[f"{name}: {verdict.split()[0].replace('area', 'another')}"] += 1
            words.append(f"{name} {verdict}")
        print(f"{path.relative_to(folder)}: {', '.join(words)}")
    print(dict(sorted(counts.items())))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
