# mypy: ignore-errors

# (Warp compiles these functions; their annotations are Warp's types, not Python's)
"""The rasteriser's kernels: place the vertices, draw the faces into a buffer of keys, read the surface from the keys.

A key is 64 bits: the depth's bits above, the number of the face below. The smallest key of a pixel is its nearest
face. Whether a pixel's centre lies inside a face is asked in camera coordinates, relative to the ray through the
centre (Woop et al., "Watertight Ray/Triangle Intersection", JCGT 2013, with the ray along z). So faces may reach
behind the camera, and neighbours decide about their common edge by the very same numbers: no gap, nothing twice.

``fuse_fp`` is off: a product and a difference rounded as one would break that equality.

A launch draws a group of images. ``first_block``, ``first_vertex``, ``first_face``, ``first_ray`` and ``first_row`` say
how many blocks of faces or vertices, vertices, faces, pixels and rows come before the group.

Tables are (rows + 1, columns): where a column counts, the last row holds the total.
"""

import warp as wp

wp.set_module_options({"enable_backward": False, "fuse_fp": False})

NEAR_MM = wp.constant(0.1)
"""The near plane: a surface that is nearer to the camera's centre, along z, is not drawn."""
EMPTY = wp.constant(wp.uint64(0xFFFFFFFFFFFFFFFF))
_BEHIND = wp.constant(1.0e30)
_SLACK = wp.constant(2.0e-3)
_AWAY = wp.constant(1.0e-2)
"""Twice the area in pixels from which on a face surely faces away; seen from the front it is negative."""

# columns of the instances' table
VERTICES, FACES = wp.constant(0), wp.constant(1)
"""How many there are before the instance."""
VERTEX_BLOCKS, FACE_BLOCKS = wp.constant(2), wp.constant(3)
"""How many blocks of them there are before it."""
MESH_VERTICES, MESH_FACES = wp.constant(4), wp.constant(5)
"""Where its mesh's begin."""
IMAGE, LAYER = wp.constant(6), wp.constant(7)
SOLID = wp.constant(8)
"""1 = closed, and the camera is outside: what faces away is hidden by what does not."""

# columns of the images' table
LEFT, TOP, RIGHT, BOTTOM = wp.constant(0), wp.constant(1), wp.constant(2), wp.constant(3)
"""The window: the pixels that are drawn, [LEFT, RIGHT) x [TOP, BOTTOM)."""
ROWS, RAYS, INSTANCES = wp.constant(4), wp.constant(5), wp.constant(6)
"""How many rows and pixels of windows, and instances, there are before the image."""


@wp.func
def last_at_most(table: wp.array2d(dtype=wp.int64), column: int, low: int, high: int, value: wp.int64):
    """Returns the last row in [low, high) whose column is at most the value."""
    while high - low > 1:
        middle = (low + high) // 2
        if table[middle, column] <= value:
            low = middle
        else:
            high = middle
    return low


@wp.func
def belongs(edge: float, p: wp.vec2, q: wp.vec2):
    """Whether a centre is inside the edge from p to q, or on it and the edge is a top or a left one."""
    return edge > 0.0 or (edge == 0.0 and (q[1] < p[1] or (q[1] == p[1] and q[0] > p[0])))


@wp.func
def beside(vertex: wp.vec3, u: float, v: float):
    """Returns where a vertex lies beside the ray (u, v, 1), in the plane of its own depth."""
    return wp.vec2(vertex[0] - u * vertex[2], vertex[1] - v * vertex[2])


@wp.func
def areas(a: wp.vec2, b: wp.vec2, c: wp.vec2):
    """Twice the areas of the triangles that a ray makes with the edges opposite the corners: the corners' weights."""
    return wp.vec3(b[0] * c[1] - b[1] * c[0], c[0] * a[1] - c[1] * a[0], a[0] * b[1] - a[1] * b[0])


@wp.func
def ray_at(pixel: int, center: float, focal: float):
    """Returns x or y of the ray (x, y, 1) through a pixel's centre."""
    return (float(pixel) + 0.5 - center) * focal


@wp.kernel
def place_vertices(
    first_block: int,
    first_vertex: wp.int64,
    block: int,  # vertices a thread places
    block_instance: wp.array(dtype=wp.int32),
    instances: wp.array2d(dtype=wp.int64),
    cameras: wp.array(dtype=wp.vec4),  # (B,) 1 / fx, 1 / fy, cx, cy
    rotations: wp.array(dtype=wp.mat33),  # (N,) R_cam_obj
    translations: wp.array(dtype=wp.vec3),  # (N,) t_cam_obj
    scales: wp.array(dtype=wp.float32),  # (N,)
    points: wp.array(dtype=wp.vec3),  # every mesh's, one after the other
    placed: wp.array(dtype=wp.vec3),  # mm, camera frame
    pixels: wp.array(dtype=wp.vec2),
):
    here = first_block + wp.tid()
    i = block_instance[here]
    begin = int(wp.int64(here) - instances[i, VERTEX_BLOCKS]) * block
    end = wp.min(begin + block, int(instances[i + 1, VERTICES] - instances[i, VERTICES]))
    to = int(instances[i, VERTICES] - first_vertex)
    source = int(instances[i, MESH_VERTICES])
    camera = cameras[int(instances[i, IMAGE])]
    turn = rotations[i] * scales[i]
    shift = translations[i]
    for v in range(begin, end):
        p = turn * points[source + v] + shift
        placed[to + v] = p
        if p[2] < NEAR_MM:
            pixels[to + v] = wp.vec2(_BEHIND, _BEHIND)
        else:
            near = 1.0 / p[2]
            pixels[to + v] = wp.vec2(p[0] * near / camera[0] + camera[2], p[1] * near / camera[1] + camera[3])


@wp.func
def draw_face(
    a: wp.vec3,  # mm, camera frame
    b: wp.vec3,
    c: wp.vec3,
    first_x: int,  # the pixels to ask about
    first_y: int,
    last_x: int,
    last_y: int,
    camera: wp.vec4,
    number: int,
    key_at: int,  # of the pixel (0, 0), which may lie outside the window
    span: int,
    layer_at: int,  # of the pixel (0, 0); negative = no layer
    width: int,
    keys: wp.array(dtype=wp.uint64),
    layer_depth: wp.array(dtype=wp.float32),
):
    """Puts a face's key wherever it is the nearest so far."""
    for y in range(first_y, last_y + 1):
        v = ray_at(y, camera[3], camera[1])
        for x in range(first_x, last_x + 1):
            u = ray_at(x, camera[2], camera[0])
            pa = beside(a, u, v)
            pb = beside(b, u, v)
            pc = beside(c, u, v)
            weight = areas(pa, pb, pc)
            inside = bool(False)
            if wp.min(weight) >= 0.0:
                inside = belongs(weight[0], pb, pc) and belongs(weight[1], pc, pa) and belongs(weight[2], pa, pb)
            elif wp.max(weight) <= 0.0:  # seen from behind: the other way around
                inside = belongs(-weight[0], pc, pb) and belongs(-weight[1], pa, pc) and belongs(-weight[2], pb, pa)
            total = weight[0] + weight[1] + weight[2]
            if inside and total != 0.0:
                z = (weight[0] * a[2] + weight[1] * b[2] + weight[2] * c[2]) / total
                if z >= NEAR_MM:
                    key = (wp.uint64(wp.cast(z, wp.uint32)) << wp.uint64(32)) | wp.uint64(number)
                    wp.atomic_min(keys, key_at + y * span + x, key)
                    if layer_at >= 0:
                        wp.atomic_min(layer_depth, layer_at + y * width + x, z)


@wp.kernel
def draw_faces(
    first_block: int,
    first_vertex: wp.int64,
    first_face: wp.int64,
    first_ray: wp.int64,
    block: int,  # faces a thread draws
    block_instance: wp.array(dtype=wp.int32),
    instances: wp.array2d(dtype=wp.int64),
    images: wp.array2d(dtype=wp.int64),
    cameras: wp.array(dtype=wp.vec4),
    faces: wp.array(dtype=wp.vec3i),  # every mesh's, by its own vertices
    placed: wp.array(dtype=wp.vec3),
    pixels: wp.array(dtype=wp.vec2),
    width: int,
    height: int,
    keys: wp.array(dtype=wp.uint64),
    layer_depth: wp.array(dtype=wp.float32),
):
    here = first_block + wp.tid()
    i = block_instance[here]
    begin = int(wp.int64(here) - instances[i, FACE_BLOCKS]) * block
    end = wp.min(begin + block, int(instances[i + 1, FACES] - instances[i, FACES]))
    vertex = int(instances[i, VERTICES] - first_vertex)
    number = int(instances[i, FACES] - first_face)
    source = int(instances[i, MESH_FACES])
    layer = int(instances[i, LAYER])
    solid = instances[i, SOLID] == wp.int64(1)
    image = int(instances[i, IMAGE])
    camera = cameras[image]
    x0 = int(images[image, LEFT])
    y0 = int(images[image, TOP])
    span = int(images[image, RIGHT]) - x0
    key_at = int(images[image, RAYS] - first_ray)
    left = float(x0)
    top = float(y0)
    right = float(images[image, RIGHT] - wp.int64(1))
    bottom = float(images[image, BOTTOM] - wp.int64(1))
    for f in range(begin, end):
        corner = faces[source + f]
        pa = pixels[vertex + corner[0]]
        pb = pixels[vertex + corner[1]]
        pc = pixels[vertex + corner[2]]
        turned = (pb[0] - pa[0]) * (pc[1] - pa[1]) - (pb[1] - pa[1]) * (pc[0] - pa[0])
        if solid and turned > _AWAY:
            continue
        low = wp.min(pa, wp.min(pb, pc))
        high = wp.max(pa, wp.max(pb, pc))
        if high[0] == _BEHIND and low[0] != _BEHIND:  # it crosses the near plane: it may be anywhere
            low = wp.vec2(left, top)
            high = wp.vec2(right + 1.0, bottom + 1.0)
        # the pixels whose centres may lie inside: the vertices' places are rounded
        first_x = wp.max(wp.ceil(low[0] - 0.5 - _SLACK), left)
        last_x = wp.min(wp.floor(high[0] - 0.5 + _SLACK), right)
        first_y = wp.max(wp.ceil(low[1] - 0.5 - _SLACK), top)
        last_y = wp.min(wp.floor(high[1] - 0.5 + _SLACK), bottom)
        if first_x <= last_x and first_y <= last_y:
            a = placed[vertex + corner[0]]
            b = placed[vertex + corner[1]]
            c = placed[vertex + corner[2]]
            draw_face(
                a, b, c, int(first_x), int(first_y), int(last_x), int(last_y), camera, number + f,
                key_at - y0 * span - x0, span, layer * height * width, width, keys, layer_depth,
            )  # fmt: skip


@wp.func
def facing(smooth: wp.vec3, flat: wp.vec3, ray: wp.vec3):
    """An interpolated normal, turned so that it does not look away along the ray."""
    n = smooth
    if wp.dot(flat, ray) > 0.0:
        n = -n  # the back of a face, of an open mesh
    lean = wp.dot(n, ray)
    if lean > 0.0:
        n = n - (lean / wp.dot(ray, ray)) * ray  # a smooth normal that looks away at the rim: edge-on
    return n


@wp.kernel
def read_surface(
    first_row: int,
    first_vertex: wp.int64,
    first_face: wp.int64,
    first_ray: wp.int64,
    columns: int,  # pixels of a row that a thread reads
    instances: wp.array2d(dtype=wp.int64),
    images: wp.array2d(dtype=wp.int64),
    cameras: wp.array(dtype=wp.vec4),
    rotations: wp.array(dtype=wp.mat33),
    faces: wp.array(dtype=wp.vec3i),
    normals: wp.array(dtype=wp.vec3),  # every mesh's, one after the other
    colors: wp.array(dtype=wp.vec3),
    placed: wp.array(dtype=wp.vec3),
    width: int,
    height: int,
    keys: wp.array(dtype=wp.uint64),  # all EMPTY afterwards
    depth: wp.array(dtype=wp.float32),
    ids: wp.array(dtype=wp.int32),
    normal_out: wp.array(dtype=wp.vec3),  # empty = neither normals nor colours
    color_out: wp.array(dtype=wp.vec3),
):
    line, part = wp.tid()
    row = wp.int64(first_row + line)
    image = last_at_most(images, ROWS, 0, images.shape[0] - 1, row)
    x0 = int(images[image, LEFT])
    span = int(images[image, RIGHT]) - x0
    down = int(row - images[image, ROWS])
    y = int(images[image, TOP]) + down
    key_at = int(images[image, RAYS] - first_ray) + down * span
    camera = cameras[image]
    v = ray_at(y, camera[3], camera[1])
    first_instance = int(images[image, INSTANCES])
    i = first_instance
    for column in range(part * columns, wp.min(part * columns + columns, span)):
        key = keys[key_at + column]
        if key != EMPTY:
            keys[key_at + column] = EMPTY
            face = first_face + wp.int64(key & wp.uint64(0xFFFFFFFF))
            if face < instances[i, FACES] or face >= instances[i + 1, FACES]:
                i = last_at_most(instances, FACES, first_instance, int(images[image + 1, INSTANCES]), face)
            x = x0 + column
            pixel = (image * height + y) * width + x
            depth[pixel] = wp.cast(wp.uint32(key >> wp.uint64(32)), wp.float32)
            ids[pixel] = i
            if normal_out.shape[0] > 0:
                corner = faces[int(instances[i, MESH_FACES]) + int(face - instances[i, FACES])]
                vertex = int(instances[i, VERTICES] - first_vertex)
                a = placed[vertex + corner[0]]
                b = placed[vertex + corner[1]]
                c = placed[vertex + corner[2]]
                u = ray_at(x, camera[2], camera[0])
                weight = areas(beside(a, u, v), beside(b, u, v), beside(c, u, v))
                share = 1.0 / (weight[0] + weight[1] + weight[2])
                own = int(instances[i, MESH_VERTICES])
                ia, ib, ic = own + corner[0], own + corner[1], own + corner[2]
                turned = weight[0] * normals[ia] + weight[1] * normals[ib] + weight[2] * normals[ic]
                smooth = facing(rotations[i] * (turned * share), wp.cross(b - a, c - a), wp.vec3(u, v, 1.0))
                normal_out[pixel] = wp.normalize(smooth)
                color_out[pixel] = (weight[0] * colors[ia] + weight[1] * colors[ib] + weight[2] * colors[ic]) * share
