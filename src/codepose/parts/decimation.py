"""Fewer faces for a huge mesh: quadric decimation that keeps the colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import trimesh
from fast_simplification import simplify
from scipy.spatial import KDTree

from codepose.parts.mesh import Mesh, mesh_from_trimesh
from codepose.parts.textures import divided, edge_length


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
    vertices, triangles = np.asarray(whole.vertices), np.asarray(whole.faces)
    if np.ptp(mesh.colors, axis=0).max() > 0:
        vertices, triangles = simplify(vertices, triangles, lossless=True)  # a flat side down to two triangles
        if len(triangles) > faces // 2:
            vertices, triangles = simplify(vertices, triangles, target_count=faces // 2)
        body = trimesh.Trimesh(vertices, triangles)
        vertices, triangles = divided(body.vertices, body.faces, edge_length(float(body.area), faces), faces)
    else:
        vertices, triangles = simplify(vertices, triangles, target_count=faces)
    places = mesh.vertices[mesh.faces].mean(axis=1)  # (F, 3)
    nearest = KDTree(places).query(vertices)[1]
    colors = (mesh.colors[mesh.faces].mean(axis=1)[nearest] * 255).round().astype(np.uint8)
    body = trimesh.Trimesh(vertices, triangles, vertex_colors=colors, process=False)
    return replace(mesh_from_trimesh(body, mesh.name, grip=mesh.grip), diameter=mesh.diameter)
