"""Fewer faces for a huge mesh: quadric decimation that keeps the colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.spatial import KDTree

from codepose.synthesis.mesh import Mesh, mesh_from_trimesh
from codepose.synthesis.textures import divided, edge_length


def decimate(mesh: Mesh, faces: int) -> Mesh:
    """A copy of a part with fewer faces, in the same frame (quadric edge collapse; Garland and Heckbert, 1997).

    The shape keeps half of the faces where the part has several colours: flat faces are then divided again, for a
    colour per vertex to carry the pattern. A colour is that of the nearest face of the original. Diameter, name and
    grip stay those of the original; the hull is that of the copy.

    Args:
        mesh: The part; returned as it is where it has no more faces than asked for.
        faces: About so many, and more only where the shape falls apart with fewer; 0 = no limit.
    """
    if faces <= 0 or len(mesh.faces) <= faces:
        return mesh
    whole = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    whole.merge_vertices()  # what was split at creases and colours must move together
    colorful = bool(np.ptp(mesh.colors, axis=0).max() > 0)
    simple = whole.simplify_quadric_decimation(face_count=faces // 2 if colorful else faces)
    vertices, triangles = np.asarray(simple.vertices), np.asarray(simple.faces)
    if colorful:
        vertices, triangles = _divided(simple, faces)
    places = mesh.vertices[mesh.faces].mean(axis=1)  # (F, 3)
    nearest = KDTree(places).query(vertices)[1]
    colors = (mesh.colors[mesh.faces].mean(axis=1)[nearest] * 255).round().astype(np.uint8)
    body = trimesh.Trimesh(vertices, triangles, vertex_colors=colors, process=False)
    fewer = mesh_from_trimesh(body, mesh.name, grip=mesh.grip)
    return replace(fewer, diameter=mesh.diameter)


def _divided(mesh: trimesh.Trimesh, faces: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(V, 3) vertices and (F, 3) faces, edges halved down to the length at which there are at most ``faces``."""
    edge = edge_length(mesh.area, faces)
    while True:
        vertices, triangles = divided(np.asarray(mesh.vertices), np.asarray(mesh.faces), edge)
        if len(triangles) <= max(faces, len(mesh.faces)):
            return vertices, triangles
        edge *= 1.1
