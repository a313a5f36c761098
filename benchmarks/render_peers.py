"""The rasteriser's peers: moderngl (OpenGL on EGL; llvmpipe where there is no GPU) and Embree, as trimesh uses it.

Both give what ours does: depth in mm along the optical axis and smooth unit normals in the camera frame, in main
memory, 0 where nothing was hit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codepose.parts.mesh import Mesh

Array = NDArray[np.float32]
Peer = Callable[[Array, Array, Array, int], tuple[Array, Array]]
"""(R (B, 3, 3), t (B, 3), K (3, 3), size) -> depth (B, S, S), normals (B, S, S, 3)."""

_VERTEX = """
#version 330
uniform mat4 projection;
uniform mat3 rotation;
uniform vec3 translation;
in vec3 position;
in vec3 normal;
out vec3 turned;
out float depth;
void main() {
    vec3 place = rotation * position + translation;
    turned = rotation * normal;
    depth = place.z;
    gl_Position = projection * vec4(place, 1.0);
}
"""
_FRAGMENT = """
#version 330
in vec3 turned;
in float depth;
out vec4 value;
void main() { value = vec4(normalize(turned), depth); }
"""


def moderngl_peer(mesh: Mesh, threads: int) -> tuple[Peer, str]:
    """Returns a rasteriser and the name of what it runs on.

    All views go into one framebuffer, as tiles, and are read back at once.

    Raises:
        ImportError: moderngl is not installed.
        Exception: There is no EGL; its own kinds of error.
    """
    # llvmpipe reads this once; without threads of its own it draws in the caller's
    os.environ.setdefault("LP_NUM_THREADS", str(threads if threads > 1 else 0))
    import moderngl

    context = moderngl.create_context(standalone=True, backend="egl", require=330)
    context.enable(moderngl.DEPTH_TEST)
    program: Any = context.program(vertex_shader=_VERTEX, fragment_shader=_FRAGMENT)
    vertices = np.concatenate([mesh.vertices, mesh.normals], 1).astype(np.float32)
    content = [(context.buffer(vertices.tobytes()), "3f 3f", "position", "normal")]
    array = context.vertex_array(program, content, context.buffer(mesh.faces.astype(np.int32).tobytes()))
    frames: dict[tuple[int, int, int], Any] = {}

    def render(R: Array, t: Array, K: Array, size: int) -> tuple[Array, Array]:
        columns = math.ceil(math.sqrt(len(R)))
        rows = math.ceil(len(R) / columns)
        key = (columns, rows, size)
        if key not in frames:
            shape = (columns * size, rows * size)
            frames[key] = context.framebuffer(
                [context.texture(shape, 4, dtype="f4")], context.depth_renderbuffer(shape)
            )
        frame = frames[key]
        frame.use()
        frame.clear(0.0, 0.0, 0.0, 0.0, depth=1.0)
        program["projection"].write(_projection(K, size).T.tobytes())
        for i in range(len(R)):
            frame.viewport = (i % columns * size, i // columns * size, size, size)
            program["rotation"].write(R[i].T.tobytes())
            program["translation"].write(t[i].tobytes())
            array.render()
        data = np.frombuffer(frame.read(viewport=(0, 0, columns * size, rows * size), components=4, dtype="f4"), "f4")
        tiles = data.reshape(rows, size, columns, size, 4).swapaxes(1, 2).reshape(-1, size, size, 4)[: len(R)]
        return tiles[..., 3], tiles[..., :3]

    return render, f"moderngl, {context.info['GL_RENDERER'].split(' (')[0]}"


def _projection(K: Array, size: int, near: float = 10.0, far: float = 10_000.0) -> Array:
    """Returns OpenGL's clip matrix (4, 4) of an OpenCV camera; row 0 of the image is the framebuffer's row 0."""
    clip = np.zeros((4, 4), np.float32)
    clip[:2, :3] = 2.0 * K[:2] / size
    clip[:2, 2] -= 1.0
    clip[2, 2], clip[2, 3] = (far + near) / (far - near), -2.0 * far * near / (far - near)
    clip[3, 2] = 1.0
    return clip


def embree_peer(mesh: Mesh) -> tuple[Peer, str]:
    """Returns a ray caster on Embree's bindings; they use one thread.

    Rays are cast inside the object's projected box alone, where ours draws.

    Raises:
        ImportError: embreex is not installed.
    """
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    scene = EmbreeScene()
    geometry = TriangleMesh(scene=scene, vertices=mesh.vertices, indices=mesh.faces)
    corners = mesh.normals[mesh.faces]  # (F, 3, 3)

    def view(R: Array, t: Array, K: Array, depth: Array, normals: Array) -> None:
        projected = (mesh.hull @ R.T + t) @ K.T
        pixels = projected[:, :2] / projected[:, 2:]
        x0, y0 = np.maximum(np.floor(pixels.min(0)), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(pixels.max(0)), depth.shape[::-1]).astype(int)
        u, v = np.meshgrid(np.arange(x0, x1, dtype=np.float32) + 0.5, np.arange(y0, y1, dtype=np.float32) + 0.5)
        rays = np.stack(((u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)), -1).reshape(-1, 3)
        directions = rays.astype(np.float32) @ R  # of depth 1, so the distance along them is the depth
        origins = np.broadcast_to(-(t @ R), directions.shape)
        found = scene.run(np.ascontiguousarray(origins), directions, query="INTERSECT", output=1)
        hit = np.flatnonzero(found["primID"] >= 0)
        a, b = found["u"][hit, None], found["v"][hit, None]
        corner = corners[found["primID"][hit]]
        normal = ((1.0 - a - b) * corner[:, 0] + a * corner[:, 1] + b * corner[:, 2]) @ R.T
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        rows, columns = y0 + hit // (x1 - x0), x0 + hit % (x1 - x0)
        depth[rows, columns] = found["tfar"][hit]
        normals[rows, columns] = normal

    def render(R: Array, t: Array, K: Array, size: int) -> tuple[Array, Array]:
        depth = np.zeros((len(R), size, size), np.float32)
        normals = np.zeros((len(R), size, size, 3), np.float32)
        for i in range(len(R)):
            view(R[i], t[i], K, depth[i], normals[i])
        return depth, normals

    render.keeps = geometry  # type: ignore[attr-defined]  # the scene does not hold it itself
    return render, "Embree, 1 thread"
