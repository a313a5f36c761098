# mypy: ignore-errors
# (Warp compiles this function; its annotations are Warp's types, not Python's)
"""The kernel that finds where convex hulls end in an image: one thread an instance, nothing stored between.

The loop over the points is C++, ``LANES`` points at a time, so that a CPU's compiler turns it into vector instructions.
"""

import warp as wp

wp.set_module_options({"enable_backward": False})

LANES = 8
"""A hull has a multiple of so many points."""

_LOOP = (
    f"    enum {{ LANES = {LANES} }};"
    + """
    const float* across = reinterpret_cast<const float*>(hulls.data) + 3 * first;
    const float* down = across + count;
    const float* along = down + count;
    const float ax = projection.data[0][0], bx = projection.data[0][1], cx = projection.data[0][2], dx = shift[0];
    const float ay = projection.data[1][0], by = projection.data[1][1], cy = projection.data[1][2], dy = shift[1];
    const float az = projection.data[2][0], bz = projection.data[2][1], cz = projection.data[2][2], dz = shift[2];
    float left[LANES], top[LANES], right[LANES], bottom[LANES];
    for (int k = 0; k < LANES; ++k) {
        left[k] = top[k] = 3.0e38f;
        right[k] = bottom[k] = -3.0e38f;
    }
    for (int p = 0; p < count; p += LANES) {
        for (int k = 0; k < LANES; ++k) {
            const float u = across[p + k], v = down[p + k], w = along[p + k];
            const float nearness = 1.0f / (az * u + bz * v + cz * w + dz);
            const float x = (ax * u + bx * v + cx * w + dx) * nearness;
            const float y = (ay * u + by * v + cy * w + dy) * nearness;
            left[k] = x < left[k] ? x : left[k];
            top[k] = y < top[k] ? y : top[k];
            right[k] = x > right[k] ? x : right[k];
            bottom[k] = y > bottom[k] ? y : bottom[k];
        }
    }
    for (int k = 1; k < LANES; ++k) {
        left[0] = left[k] < left[0] ? left[k] : left[0];
        top[0] = top[k] < top[0] ? top[k] : top[0];
        right[0] = right[k] > right[0] ? right[k] : right[0];
        bottom[0] = bottom[k] > bottom[0] ? bottom[k] : bottom[0];
    }
    return wp::vec4(left[0], top[0], right[0], bottom[0]);
"""
)


@wp.func_native(_LOOP)
def ends(
    hulls: wp.array(dtype=wp.float32),
    first: int,
    count: int,
    projection: wp.mat33,
    shift: wp.vec3,
) -> wp.vec4: ...


@wp.kernel
def find_ends(
    firsts: wp.array(dtype=wp.int32),  # (M,) points before each hull's
    counts: wp.array(dtype=wp.int32),  # (M,) of points, a multiple of LANES
    hulls: wp.array(dtype=wp.float32),  # of each hull the points' x, then their y, then their z, mm
    which: wp.array(dtype=wp.int32),  # (N,) whose hull
    projections: wp.array(dtype=wp.mat33),  # (N,) to pixels, homogeneous
    shifts: wp.array(dtype=wp.vec3),  # (N,)
    boxes: wp.array(dtype=wp.vec4),  # (N,) xyxy
):
    n = wp.tid()
    hull = which[n]
    boxes[n] = ends(hulls, firsts[hull], counts[hull], projections[n], shifts[n])
