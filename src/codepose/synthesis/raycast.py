# mypy: ignore-errors
# ruff: noqa: RUF046 (in Warp a bare literal is a constant; int(0) and float(0.0) are variables)
# (Warp compiles this function; its annotations are Warp's types, not Python's)
"""The ray-casting kernel: one thread a ray, the nearest of an image's instances wins."""

import warp as wp


@wp.func
def image_of(ray: int, ray_offsets: wp.array(dtype=wp.int32)):
    """The image a ray belongs to: binary search among the first rays of the images."""
    low = int(0)
    high = ray_offsets.shape[0] - 1
    while high - low > 1:
        middle = (low + high) // 2
        if ray_offsets[middle] <= ray:
            low = middle
        else:
            high = middle
    return low


@wp.func
def facing(smooth: wp.vec3, flat: wp.vec3, toward: wp.vec3):
    """An interpolated normal, turned so that it does not look away from the camera; ``toward`` is a unit vector."""
    n = smooth
    if wp.dot(flat, toward) > 0.0:
        n = -n  # the back of a face, of an open mesh
    lean = wp.dot(n, toward)
    if lean > 0.0:
        n = n - lean * toward  # a smooth normal that looks away at the rim: edge-on
    return n


@wp.kernel(enable_backward=False)
def cast_rays(
    first_ray: int,
    ray_offsets: wp.array(dtype=wp.int32),  # (B + 1,) rays before each image
    windows: wp.array(dtype=wp.int32, ndim=2),  # (B, 4) x0, y0, x1, y1 of the rays of each image
    cameras: wp.array(dtype=wp.float32, ndim=2),  # (B, 4) fx, fy, cx, cy
    instance_offsets: wp.array(dtype=wp.int32),  # (B + 1,) instances before each image
    boxes: wp.array(dtype=wp.int32, ndim=2),  # (N, 4)
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
    ray = wp.tid() + first_ray
    image = image_of(ray, ray_offsets)
    local = ray - ray_offsets[image]
    span = windows[image, 2] - windows[image, 0]
    x = windows[image, 0] + local % span
    y = windows[image, 1] + local // span
    pixel = (image * height + y) * width + x

    # the direction has z = 1, so the distance along it, times its length, is the depth
    direction = wp.vec3(
        (float(x) + 0.5 - cameras[image, 2]) / cameras[image, 0],
        (float(y) + 0.5 - cameras[image, 3]) / cameras[image, 1],
        1.0,
    )
    nearest = float(1.0e20)
    for i in range(instance_offsets[image], instance_offsets[image + 1]):
        if x >= boxes[i, 0] and x < boxes[i, 2] and y >= boxes[i, 1] and y < boxes[i, 3]:
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
                    n = facing(smooth, hit.normal, toward / length)
                    depth[pixel] = z
                    ids[pixel] = i
                    normal_out[pixel] = wp.normalize(rotations[i] * n)
                    color_out[pixel] = hit.u * colors[a] + hit.v * colors[b] + w * colors[c]
