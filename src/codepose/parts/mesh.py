"""A CAD file becomes a `Mesh`: millimetres, split at creases, outward unit normals, a colour per vertex."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import cdist

from codepose import geometry
from codepose.parts.cad.files import read_cad
from codepose.parts.cad.surface import MeshError as MeshError
from codepose.parts.cad.surface import Surface
from codepose.parts.textures import NEUTRAL, painted
from codepose.parts.units import MILLIMETRES, check_size, check_unit, file_unit
from codepose.settings.data import Unit

CREASE_DEG = 35.0  # faces that meet at a larger angle keep a sharp edge between them
EXACT_HULL = 2562  # vertices; with more every box of every scene would take milliseconds
COARSE_HULL = 642  # vertices; enough for where a part lies
_FARTHEST = 1000.0  # sizes from its origin at which a part's surface is still good to 0.01 %


@dataclass(frozen=True, eq=False)
class Mesh:
    """A rigid part, ready for the renderer.

    Attributes:
        name: What to call the part in messages and file names.
        vertices: (V, 3) mm, object frame; a vertex on a crease is stored once for each side.
        faces: (F, 3) vertex indices, counter-clockwise seen from outside.
        normals: (V, 3) unit length, outward, object frame.
        colors: (V, 3) RGB in [0, 1].
        diameter: Largest distance between two vertices, mm (of more than 2,562 hull vertices to 0.1 %).
        hull: (H, 3) mm, vertices of the convex hull: enough for an exact projected box. Of more than 2,562 the
            outermost along that many directions are kept: enough to 0.1 % of the diameter.
        grip: (2, 3) mm, the segment on which the middle of a gripping fist may lie.
    """

    name: str
    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    normals: NDArray[np.float32]
    colors: NDArray[np.float32]
    diameter: float
    hull: NDArray[np.float32]
    grip: NDArray[np.float32]

    @property
    def extents(self) -> NDArray[np.float32]:
        """(3,) mm, side lengths of the bounding box along x, y and z."""
        extents: NDArray[np.float32] = np.ptp(self.vertices, axis=0)
        return extents

    @property
    def center(self) -> NDArray[np.float32]:
        """(3,) mm, middle of the bounding box, object frame."""
        center: NDArray[np.float32] = (self.vertices.min(axis=0) + self.vertices.max(axis=0)) / np.float32(2)
        return center

    @cached_property
    def closed(self) -> bool:
        """Whether each body is closed, with its faces wound counter-clockwise seen from outside."""
        solid = trimesh.Trimesh(self.vertices, self.faces, process=False)
        solid.merge_vertices(merge_norm=True, merge_tex=True)
        if not (solid.is_watertight and solid.is_winding_consistent):
            return False
        return all(body.volume > 0 for body in solid.split(only_watertight=False))

    def moved(self, by: ArrayLike) -> Mesh:
        """A copy shifted by (3,) mm."""
        step = np.asarray(by, dtype=np.float32)
        places = {name: getattr(self, name) + step for name in ("vertices", "hull", "grip")}
        return replace(self, **places)

    def scaled(self, by: float) -> Mesh:
        """A copy that is larger by a factor above 0, about the origin."""
        lengths = {name: getattr(self, name) * np.float32(by) for name in ("vertices", "hull", "grip")}
        return replace(self, diameter=self.diameter * by, **lengths)


def to_trimesh(mesh: Mesh, *, normals: bool = False) -> trimesh.Trimesh:
    """The part for trimesh, in mm, with its 8-bit vertex colours, and with its vertex normals if asked for."""
    colors = (np.clip(mesh.colors, 0.0, 1.0) * 255).round().astype(np.uint8)
    vertex_normals = mesh.normals if normals else None
    return trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_normals=vertex_normals, vertex_colors=colors, process=False
    )


def save_mesh(mesh: Mesh, path: str | Path, *, normals: bool = False) -> None:
    """Write a part as a PLY file in mm, with its colours, in its own frame; `load_mesh` reads it back."""
    to_trimesh(mesh, normals=normals).export(str(path), vertex_normal=normals)


def load_mesh(
    path: str | Path, *, unit: Unit = "mm", center: bool = True, name: str | None = None, body: str = ""
) -> Mesh:
    """Read a CAD file: STEP (with the extra ``step``), PLY, OBJ, STL, GLB, glTF, 3MF or OFF.

    A file with several parts becomes one mesh, each part at its place. Vertex, face and material colours are
    kept, a texture becomes colours of finer faces (``textures.py``), and a part without colour is neutral grey (0.6).

    Args:
        path: The file.
        unit: What one unit of the file is; GLB files are usually in metres. 3MF and STEP files say it themselves.
        center: Move the middle of the bounding box to the origin. Without it the file's own origin stays,
            which is what a benchmark with published poses needs.
        name: The part's name; default the file's name without its suffix.
        body: Only the body or assembly that a STEP or GLB file calls so; of equal names NAME is the first, NAME#2 the
            second. Empty = all of the file.

    Returns:
        The part in mm.

    Raises:
        MeshError: The file is missing, of an unknown kind, damaged, empty or without faces, needs what is not read or
            installed, or the part has no surface or no plausible size, or it is too far from its origin, or no body
            has the name.
    """
    path = Path(path)
    check_unit(unit)
    soup = painted(read_cad(path, body))
    low, high = soup.triangles.min(axis=(0, 1)), soup.triangles.max(axis=(0, 1))
    if center:
        soup = replace(soup, triangles=soup.triangles - (low + high) / 2)
    elif np.linalg.norm(low + high) / 2 > _FARTHEST * np.linalg.norm(high - low) > 0:
        raise MeshError(
            f"{path}: the part is so far from the file's origin that single precision blurs it; type codepose mesh "
            f"{path} --center --save {path.stem}-centered.ply and use that copy"
        )
    return mesh_from_surface(soup, name or path.stem, unit=file_unit(path, unit), source=str(path))


def mesh_from_trimesh(mesh: trimesh.Trimesh, name: str, *, grip: ArrayLike | None = None, unit: Unit = "mm") -> Mesh:
    """Check a trimesh, split it at its creases and freeze it; see `mesh_from_surface`.

    Args:
        mesh: The part, with colours of faces or vertices; left unchanged.
        name: The part's name.
        grip: (2, 3) mm, object frame; default the middle 70 % of the bounding box's longest axis.
        unit: What one unit of `mesh.vertices` is.

    Returns:
        The part in mm, in the frame of `mesh`.

    Raises:
        MeshError: No vertices, no faces, a vertex that is not finite, no surface, or no plausible size.
    """
    _check_content(mesh, name)
    return mesh_from_surface(surface_from_trimesh(mesh), name, grip=grip, unit=unit)


def surface_from_trimesh(mesh: trimesh.Trimesh) -> Surface:
    """The triangles of a trimesh with its colours of faces or vertices."""
    visual: Any = mesh.visual
    triangles = np.asarray(mesh.vertices, np.float64)[mesh.faces]
    if visual.kind == "face":
        return Surface(triangles, "face", np.repeat(np.asarray(visual.face_colors, np.uint8)[:, None, :3], 3, axis=1))
    if visual.kind == "vertex":
        return Surface(triangles, "vertex", np.asarray(visual.vertex_colors, np.uint8)[:, :3][mesh.faces])
    return Surface(triangles)


def mesh_from_surface(
    surface: Surface, name: str, *, grip: ArrayLike | None = None, unit: Unit = "mm", source: str = ""
) -> Mesh:
    """Split a surface at its creases and freeze it.

    Degenerate faces are dropped, and faces that are wound inside out are turned.

    Args:
        surface: The part, its corners finite; a picture is not looked at.
        name: The part's name.
        grip: (2, 3) mm, object frame; default the middle 70 % of the bounding box's longest axis.
        unit: What one unit of the surface is.
        source: What to call the part in errors; default its name.

    Returns:
        The part in mm, in the frame of the surface.

    Raises:
        MeshError: No surface, or no plausible size.
    """
    scale = MILLIMETRES[check_unit(unit)]
    colors = np.broadcast_to(np.uint8(NEUTRAL) if surface.colors is None else surface.colors, surface.triangles.shape)
    vertices, faces, corner_colors = _weld(surface.triangles * scale, colors)
    if len(faces) == 0:
        raise MeshError(f"{source or name}: all faces have zero area; export the part again as a triangulated surface")
    hull = _convex_hull(vertices[np.unique(faces)].astype(np.float32))
    corners = outermost(hull)
    diameter = _diameter(hull, corners)
    check_size(diameter, source or name, unit)
    faces, corner_colors = _wind_outward(vertices, faces, corner_colors)
    return _split_at_creases(name, vertices, faces, corner_colors, diameter, corners, grip)


def _check_content(mesh: trimesh.Trimesh, name: str) -> None:
    if len(mesh.vertices) == 0:
        raise MeshError(f"{name}: the model is empty; export the part again as STEP, PLY, OBJ, STL, GLB or 3MF")
    if len(mesh.faces) == 0:
        raise MeshError(f"{name}: the model has no faces; export the part as a surface, not as points")
    if not np.isfinite(mesh.vertices).all():
        count = int((~np.isfinite(mesh.vertices).all(axis=1)).sum())
        raise MeshError(f"{name}: {count} vertices are not finite numbers; export the part again")


def _weld(
    corners: NDArray[np.float64], corner_colors: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.uint8]]:
    """Join corners at the same place, so that neighbouring faces know each other; drop faces without area.

    Args:
        corners: (F, 3, 3) mm.
        corner_colors: (F, 3, 3) RGB.

    Returns:
        (V, 3) vertices, (G, 3) faces and (G, 3, 3) colours, G <= F.
    """
    points = corners.reshape(-1, 3)
    low = points.min(axis=0)
    step = max(float((points.max(axis=0) - low).max()), 1e-300) * 1e-6  # nearer corners are one vertex
    cell = np.round((points - low) / step).astype(np.int64)  # in [0, 10^6]: 20 bits
    key = (cell[:, 0] << 40) + (cell[:, 1] << 20) + cell[:, 2]
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    vertices, faces = points[first], inverse.reshape(-1, 3).astype(np.int64)
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    keep = np.linalg.norm(np.cross(b - a, c - a), axis=1) > step**2
    return vertices, faces[keep], corner_colors[keep]


def signed_volume(body: trimesh.Trimesh) -> float:
    """Returns what a surface encloses, negative where its faces look inward; 0 for a flat one, without a warning."""
    a, b, c = np.moveaxis(np.asarray(body.triangles, np.float64), 1, 0)
    return float(np.einsum("ij,ij->", a, np.cross(b, c))) / 6


def _wind_outward(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], corner_colors: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Turn faces that disagree with their neighbours, then the whole part if its volume is negative."""
    body = trimesh.Trimesh(vertices - vertices[faces].mean(axis=(0, 1)), faces, process=False)
    if not body.is_winding_consistent:
        body.fix_normals(multibody=True)
    fixed = np.asarray(body.faces, np.int64)
    if signed_volume(body) < -1e-6 * float(body.scale) ** 3:
        fixed = fixed[:, ::-1]
    turned = fixed[:, 0] != faces[:, 0]  # trimesh turns a face by reversing its row
    return fixed, np.where(turned[:, None, None], corner_colors[:, ::-1], corner_colors)


def _split_at_creases(
    name: str,
    vertices: NDArray[np.float64],
    faces: NDArray[np.int64],
    corner_colors: NDArray[np.uint8],
    diameter: float,
    hull: NDArray[np.float32],
    grip: ArrayLike | None,
) -> Mesh:
    """Store a vertex once for each group of faces that shares its normal, and once for each colour in it."""
    triangles = vertices[faces]
    face_normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    face_normals /= np.linalg.norm(face_normals, axis=1, keepdims=True)
    body = trimesh.Trimesh(vertices, faces, process=False)
    group = _smooth_groups(body, face_normals)
    angles = body.face_angles.reshape(-1)
    pull = np.repeat(face_normals, 3, axis=0)
    sums = np.stack([np.bincount(group, weights=angles * pull[:, i]) for i in range(3)], axis=1)
    corner_normals = (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12))[group]
    apart = np.einsum("ij,ij->i", corner_normals, pull) < np.cos(np.radians(CREASE_DEG))
    corner_normals[apart] = pull[apart]  # the tip of a cone has no normal of its own
    group = np.where(apart, group.size + np.arange(group.size), group)
    rgb = corner_colors.reshape(-1, 3).astype(np.int64)
    key = (group << 24) + (rgb[:, 0] << 16) + (rgb[:, 1] << 8) + rgb[:, 2]
    _, first, index = np.unique(key, return_index=True, return_inverse=True)
    placed = vertices[faces.reshape(-1)[first]].astype(np.float32)
    return Mesh(
        name=name,
        vertices=placed,
        faces=index.reshape(-1, 3).astype(np.int32),
        normals=corner_normals[first].astype(np.float32),
        colors=(rgb[first] / 255.0).astype(np.float32),
        diameter=diameter,
        hull=hull,
        grip=_default_grip(placed) if grip is None else np.asarray(grip, np.float32).reshape(2, 3),
    )


def _smooth_groups(body: trimesh.Trimesh, face_normals: NDArray[np.float64]) -> NDArray[np.int32]:
    """(3F,) group of each face corner: corners at one vertex share it across edges that are not creases."""
    adjacent = np.asarray(body.face_adjacency, np.int64)
    cosine = np.einsum("ij,ij->i", face_normals[adjacent[:, 0]], face_normals[adjacent[:, 1]])
    smooth = cosine > np.cos(np.radians(CREASE_DEG))
    adjacent, edges = adjacent[smooth], np.asarray(body.face_adjacency_edges)[smooth]
    here = np.concatenate([adjacent, adjacent])  # each edge once for each of its two ends
    ends = edges.T.reshape(-1)
    corner = [3 * here[:, k] + (body.faces[here[:, k]] == ends[:, None]).argmax(axis=1) for k in (0, 1)]
    count = 3 * len(body.faces)
    graph = coo_array((np.ones(len(ends), bool), (corner[0], corner[1])), shape=(count, count))
    groups: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return groups


def _convex_hull(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, 3) vertices of the convex hull; of a flat part, the outline in its own plane."""
    exact = points.astype(np.float64)
    try:
        outer: NDArray[np.int32] = ConvexHull(exact).vertices
    except QhullError:
        centred = exact - exact.mean(axis=0)
        axes = np.linalg.eigh(centred.T @ centred)[1][:, 1:]  # (3, 2), without the direction of no spread
        outer = ConvexHull(centred @ axes).vertices
    return points[outer]


def outermost(hull: NDArray[np.float32], most: int = EXACT_HULL) -> NDArray[np.float32]:
    """Of a hull with very many vertices those that stick out furthest along as many directions all around.

    2,562 reach as far as all do to 0.1 % of the diameter, or 0.1 px of a box of 130 px.

    Args:
        hull: (H, 3) its vertices.
        most: 2,562, along directions 2 degrees apart, or 642, 4 degrees apart.

    Returns:
        (h, 3) at most as many; all where there are no more.
    """
    if len(hull) <= most:
        return hull
    directions = geometry.view_sphere({COARSE_HULL: 3, EXACT_HULL: 4}[most]).double().numpy()
    chunks = np.array_split(directions, 1 + len(hull) // 4096)
    kept: NDArray[np.float32] = hull[np.unique(np.concatenate([(some @ hull.T).argmax(axis=1) for some in chunks]))]
    return kept


def _diameter(hull: NDArray[np.float32], outermost: NDArray[np.float32]) -> float:
    """Largest distance, mm, between one of a hull's outermost vertices and any of its vertices."""
    points, ends = hull.astype(np.float64), outermost.astype(np.float64)
    return max(float(cdist(ends[i : i + 64], points).max()) for i in range(0, len(ends), 64))


def _default_grip(vertices: NDArray[np.float32]) -> NDArray[np.float32]:
    """(2, 3) mm, the middle 70 % of the bounding box's longest axis, through the middle of the box."""
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    ends = np.stack([(low + high) / 2] * 2)
    axis = int(np.argmax(high - low))
    ends[:, axis] += np.array([-0.35, 0.35], np.float32) * (high - low)[axis]
    return ends.astype(np.float32)
