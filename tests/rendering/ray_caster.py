# mypy: ignore-errors

# (Warp compiles these functions; their annotations are Warp's types, not Python's)
"""The rasteriser's slow twin: one ray a pixel against every instance of the image, the nearest wins."""

import torch
import warp as wp

from codepose.rendering.raster_kernels import facing
from codepose.rendering.renderer import Buffers


@wp.kernel(enable_backward=False)
def cast_rays(
    cameras: wp.array(dtype=wp.float32, ndim=2),  # (B, 4) fx, fy, cx, cy
    instance_offsets: wp.array(dtype=wp.int32),  # (B + 1,) instances before each image
    meshes: wp.array(dtype=wp.uint64),  # (N,)
    vertex_offsets: wp.array(dtype=wp.int32),  # (N,)
    layers: wp.array(dtype=wp.int32),  # (N,) or -1
    rotations: wp.array(dtype=wp.mat33),  # (N,) R_cam_obj
    translations: wp.array(dtype=wp.vec3),  # (N,) t_cam_obj
    scales: wp.array(dtype=wp.float32),  # (N,)
    normals: wp.array(dtype=wp.vec3),  # every mesh's, one after the other
    colors: wp.array(dtype=wp.vec3),
    width: int,
    height: int,
    depth: wp.array(dtype=wp.float32),
    ids: wp.array(dtype=wp.int32),
    normal_out: wp.array(dtype=wp.vec3),
    color_out: wp.array(dtype=wp.vec3),
    layer_depth: wp.array(dtype=wp.float32),
):
    image, y, x = wp.tid()
    pixel = (image * height + y) * width + x

    # the direction has z = 1, so the distance along it, times its length, is the depth
    direction = wp.vec3(
        (float(x) + 0.5 - cameras[image, 2]) / cameras[image, 0],
        (float(y) + 0.5 - cameras[image, 3]) / cameras[image, 1],
        1.0,
    )
    nearest = float(1.0e20)
    for i in range(instance_offsets[image], instance_offsets[image + 1]):
        to_object = wp.transpose(rotations[i])
        # in the mesh's own units: the instance is scaled about its origin
        origin = -(to_object * translations[i]) / scales[i]
        toward = to_object * direction / scales[i]
        length = wp.length(toward)
        limit = nearest
        if layers[i] >= 0:
            limit = float(1.0e20)
        hit = wp.mesh_query_ray(meshes[i], origin, toward / length, limit * length)
        if hit.result:
            z = hit.t / length
            if layers[i] >= 0:
                layer_depth[(layers[i] * height + y) * width + x] = z
            if z < nearest:
                nearest = z
                face = hit.face * 3
                indices = wp.mesh_get(meshes[i]).indices
                a = vertex_offsets[i] + indices[face]
                b = vertex_offsets[i] + indices[face + 1]
                c = vertex_offsets[i] + indices[face + 2]
                w = 1.0 - hit.u - hit.v
                smooth = hit.u * normals[a] + hit.v * normals[b] + w * normals[c]
                n = facing(smooth, hit.normal, toward)
                depth[pixel] = z
                ids[pixel] = i
                normal_out[pixel] = wp.normalize(rotations[i] * n)
                color_out[pixel] = hit.u * colors[a] + hit.v * colors[b] + w * colors[c]


class RayCaster:
    """Renders as ``Renderer`` does, on the CPU."""

    def __init__(self, meshes) -> None:
        joined = [torch.cat([torch.from_numpy(getattr(m, name)) for m in meshes]) for name in ("normals", "colors")]
        self._surface = [wp.from_torch(values, dtype=wp.vec3) for values in joined]
        self._offsets = torch.tensor([0] + [len(m.vertices) for m in meshes[:-1]]).cumsum(0)
        self._meshes = [
            wp.Mesh(
                wp.array(m.vertices, dtype=wp.vec3, device="cpu"),
                wp.array(m.faces.reshape(-1), dtype=wp.int32, device="cpu"),
            )
            for m in meshes
        ]
        self._handles = torch.tensor([int(m.id) for m in self._meshes])

    def render(self, instances, K, size) -> Buffers:
        count, layers = len(K), int(instances.layer.max()) + 1
        shape = (count, *size)
        out = Buffers(
            torch.zeros(shape),
            torch.full(shape, -1, dtype=torch.int32),
            torch.zeros(*shape, 3),
            torch.zeros(*shape, 3),
            torch.zeros(layers, *size),
        )
        before = torch.bincount(instances.image, minlength=count).cumsum(0)
        inputs = [
            (torch.stack((K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]), 1), wp.float32),
            (torch.cat((before.new_zeros(1), before)).int(), wp.int32),
            (self._handles[instances.mesh], wp.uint64),
            (self._offsets[instances.mesh].int(), wp.int32),
            (instances.layer.int(), wp.int32),
            (instances.R, wp.mat33),
            (instances.t, wp.vec3),
            (instances.scale, wp.float32),
        ]
        outputs = [
            wp.from_torch(out.depth.view(-1)),
            wp.from_torch(out.instance.view(-1)),
            wp.from_torch(out.normal.view(-1, 3), dtype=wp.vec3),
            wp.from_torch(out.color.view(-1, 3), dtype=wp.vec3),
            wp.from_torch(out.layers.view(-1)),
        ]
        arrays = [wp.from_torch(values.contiguous(), dtype=kind) for values, kind in inputs]
        given = [*arrays, *self._surface, size[1], size[0], *outputs]
        wp.launch(cast_rays, dim=shape, inputs=given, device="cpu")
        return out
