# mypy: ignore-errors
# (Warp compiles this function; its annotations are Warp's types, not Python's)
"""The kernel that scores poses by a photo's edges: one thread a pose, point after point, nothing stored between.

The loop over the points is C++, so that a CPU's compiler turns it into vector instructions: no branch in it, and sums
that may be taken in any order. It takes a third of the time of the same loop in Warp's Python (docs/log).
"""

import warp as wp

wp.set_module_options({"enable_backward": False})

_LOOP = """
    const float right = (float)(width - 1), bottom = (float)(height - 1);
    const float* edges = reinterpret_cast<const float*>(fields.data) + 2 * field;
    const float* point = reinterpret_cast<const float*>(points.data) + 3 * first;
    const float* own = reinterpret_cast<const float*>(directions.data) + 2 * first;
    const float ax = projection.data[0][0], bx = projection.data[0][1], cx = projection.data[0][2], dx = shift[0];
    const float ay = projection.data[1][0], by = projection.data[1][1], cy = projection.data[1][2], dy = shift[1];
    const float az = projection.data[2][0], bz = projection.data[2][1], cz = projection.data[2][2], dz = shift[2];
    float along = 0.0f, beside = 0.0f;
    {
#pragma clang fp reassociate(on) contract(fast)
#pragma clang loop vectorize(enable)
        for (int p = 0; p < count; ++p) {
            const float u = point[3 * p], v = point[3 * p + 1], w = point[3 * p + 2];
            float z = az * u + bz * v + cz * w + dz;
            z = z > 1.0e-6f ? z : 1.0e-6f;
            const float nearness = 1.0f / z;
            // from pixel centres at integer + 0.5 to the columns of the padded field, whose rim is zero
            float x = (ax * u + bx * v + cx * w + dx) * nearness + 0.5f;
            float y = (ay * u + by * v + cy * w + dy) * nearness + 0.5f;
            x = x > 0.0f ? x : 0.0f;
            y = y > 0.0f ? y : 0.0f;
            x = x < right ? x : right;
            y = y < bottom ? y : bottom;
            int column = (int)x, row = (int)y;
            column = column < width - 2 ? column : width - 2;
            row = row < height - 2 ? row : height - 2;
            const float across = x - (float)column, down = y - (float)row;
            const int corner = 2 * (row * width + column), below = corner + 2 * width;
            const float top_cos = edges[corner] + across * (edges[corner + 2] - edges[corner]);
            const float top_sin = edges[corner + 1] + across * (edges[corner + 3] - edges[corner + 1]);
            const float low_cos = edges[below] + across * (edges[below + 2] - edges[below]);
            const float low_sin = edges[below + 1] + across * (edges[below + 3] - edges[below + 1]);
            const float felt_cos = top_cos + down * (low_cos - top_cos);
            const float felt_sin = top_sin + down * (low_sin - top_sin);
            const float own_cos = own[2 * p], own_sin = own[2 * p + 1];
            along += felt_cos * own_cos + felt_sin * own_sin;
            beside += felt_sin * own_cos - felt_cos * own_sin;
        }
    }
    return wp::vec2(along, beside);
"""


@wp.func_native(_LOOP)
def sum_votes(
    fields: wp.array(dtype=wp.vec2),
    field: int,
    height: int,
    width: int,
    points: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec2),
    first: int,
    count: int,
    projection: wp.mat33,
    shift: wp.vec3,
) -> wp.vec2: ...


@wp.kernel
def count_votes(
    first: int,
    renders_a_photo: int,
    poses: int,  # S
    turns: int,  # S, or 1 = all S are turned alike
    voters: int,  # P
    height: int,  # of a field
    width: int,
    fields: wp.array(dtype=wp.vec2),  # (N height width,) cos and sin of twice the direction, zero at the rim
    points: wp.array(dtype=wp.vec3),  # (V P,)
    directions: wp.array(dtype=wp.vec2),  # (V P,) cos and sin of twice the direction
    projections: wp.array(dtype=wp.mat33),  # (M turns,) to pixels, homogeneous
    shifts: wp.array(dtype=wp.vec3),  # (M S,)
    turned: wp.array(dtype=wp.float32),  # (M turns,) radians that the doubled directions have turned
    views: wp.array(dtype=wp.int32),  # (M,) whose points
    votes: wp.array(dtype=wp.float32),  # (M S,)
):
    here = first + wp.tid()
    row = here // poses
    turn = row * turns + (here % poses) % turns
    field = (row // renders_a_photo) * height * width
    own = views[row] * voters
    found = sum_votes(fields, field, height, width, points, directions, own, voters, projections[turn], shifts[here])
    votes[here] = found[0] * wp.cos(turned[turn]) + found[1] * wp.sin(turned[turn])
