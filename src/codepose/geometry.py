"""Rotations, view directions, cameras, and the way from a box to a translation.

Millimetres; OpenCV camera axes (x right, y down, z forward). A point projects to the *continuous* image coordinate
u = fx X/Z + cx, and pixel i covers [i, i+1): pixel centres are at integer + 0.5. Boxes are xyxy in these coordinates.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

FARTHEST_FIT = 5.0
"""Factor by which the exact translation may differ from the first guess."""


def is_rotation(R: NDArray[np.float64], within: float) -> bool:
    """Says whether R (3, 3), any numbers, is a rotation: R Rᵀ is nowhere off by ``within``, nothing is mirrored."""
    with np.errstate(all="ignore"):
        return bool(np.abs(R @ R.T - np.eye(3)).max() < within and np.linalg.det(R) > 0)


def camera_matrix(focal: float, cx: float, cy: float, fy: float | None = None) -> Tensor:
    """Returns a pinhole camera's K, (3, 3) float32.

    Args:
        focal: Focal length in pixels, across, and down if ``fy`` is not given.
        cx, cy: The principal point in pixels, pixel centres at integer + 0.5.
        fy: Focal length down; None = as across.
    """
    return torch.tensor([[focal, 0.0, cx], [0.0, fy or focal, cy], [0.0, 0.0, 1.0]])


def scaled_camera(K: Tensor, scale: Tensor | float) -> Tensor:
    """Returns the camera (..., 3, 3) of an image resized by ``scale``: one factor, or (2,), across and down."""
    rows = K.new_ones(3)
    rows[:2] = scale
    return K * rows[:, None]


def to_pixels(points: Tensor, K: Tensor) -> Tensor:
    """Returns where points (..., 3) of the camera's frame lie in the image of K (..., 3, 3), (..., 2) in pixels.

    Leading dimensions broadcast.
    """
    focal, middle = K.diagonal(dim1=-2, dim2=-1)[..., :2], K[..., :2, 2]
    return points[..., :2] / points[..., 2:].clamp_min(1e-6) * focal + middle


def from_pixels(pixels: Tensor, z: Tensor, K: Tensor) -> Tensor:
    """Returns the points behind pixels, (..., 3) in the camera's frame, in the unit of z.

    Args:
        pixels: (..., 2) in the image of K.
        z: (...) depths along the optical axis.
        K: (..., 3, 3). Leading dimensions broadcast.
    """
    focal, middle = K.diagonal(dim1=-2, dim2=-1)[..., :2], K[..., :2, 2]
    return torch.cat(((pixels - middle) / focal * z[..., None], z[..., None]), -1)


def geodesic_angle(a: Tensor, b: Tensor) -> Tensor:
    """Returns the angle of a^T b for rotations (..., 3, 3), radians in [0, pi], shape (...).

    Uses atan2 of the relative rotation's sine and cosine, accurate at both ends where acos is not.
    """
    relative = a.transpose(-1, -2) @ b
    trace = relative.diagonal(dim1=-2, dim2=-1).sum(-1)
    skew = relative - relative.transpose(-1, -2)
    sine = torch.stack((skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]), -1).norm(dim=-1)
    return torch.atan2(sine, trace - 1.0)


def view_rotation(direction: Tensor, in_plane: Tensor) -> Tensor:
    """Returns R_cam_obj (..., 3, 3) of a camera that looks at the object's origin from ``direction``.

    Args:
        direction: (..., 3) unit vectors in the object frame, from the object towards the camera.
        in_plane: (...) rotation about the optical axis, radians.
    """
    forward = -direction
    helper = torch.zeros_like(forward)
    along_x = forward[..., :1].abs() > 0.9
    helper[..., :1] = torch.where(along_x, 0.0, 1.0)
    helper[..., 1:2] = torch.where(along_x, 1.0, 0.0)
    right = F.normalize(torch.linalg.cross(helper, forward), dim=-1)
    down = torch.linalg.cross(forward, right)
    cos, sin = in_plane.cos()[..., None], in_plane.sin()[..., None]
    return torch.stack((cos * right - sin * down, sin * right + cos * down, forward), -2)


def directions_in_cone(uniforms: Tensor, axis: Tensor, cone_deg: float | Tensor) -> Tensor:
    """Maps (..., 2) uniforms in [0, 1) to unit vectors (..., 3) spread evenly over caps.

    Args:
        uniforms: (..., 2).
        axis: (3,) or (..., 3) the caps' middles.
        cone_deg: Their half-angle, one for all or (...).
    """
    if isinstance(cone_deg, Tensor):
        depth: float | Tensor = (1.0 - cone_deg.double().deg2rad().cos()).to(uniforms)
    else:
        depth = 1.0 - math.cos(math.radians(cone_deg))
    height = 1.0 - uniforms[..., 0] * depth
    radius = (1.0 - height * height).clamp_min(0.0).sqrt()
    turn = 2.0 * math.pi * uniforms[..., 1]
    local = torch.stack((radius * turn.cos(), radius * turn.sin(), height), -1)
    rotation = rotation_between(F.pad(torch.ones_like(axis[..., :1]), (2, 0)), axis).to(local)
    return (rotation * local[..., None, :]).sum(-1)


def rotation_between(a: Tensor, b: Tensor) -> Tensor:
    """Returns the smallest rotation (..., 3, 3) that takes direction ``a`` to direction ``b``, both (..., 3)."""
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = F.normalize(a.double(), dim=-1), F.normalize(b.double(), dim=-1)  # float32 fails near opposite directions
    a, b = a + torch.zeros_like(b), b + torch.zeros_like(a)  # one shape
    cos = (a * b).sum(-1)
    skew = cross_matrix(torch.linalg.cross(a, b))
    eye = torch.eye(3, dtype=a.dtype, device=a.device)
    rotation = eye + skew + skew @ skew / (1.0 + cos).clamp_min(1e-10)[..., None, None]
    # opposite directions: half a turn about any perpendicular axis
    least = F.one_hot(a.abs().argmin(-1), 3).to(a)
    perpendicular = F.normalize(torch.linalg.cross(a, least), dim=-1)
    half_turn = 2.0 * perpendicular[..., :, None] * perpendicular[..., None, :] - eye
    return torch.where((cos < -1.0 + 1e-9)[..., None, None], half_turn, rotation).to(dtype)


def cross_matrix(v: Tensor) -> Tensor:
    """Returns [v]x (..., 3, 3) with [v]x w = v x w."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).reshape(*v.shape[:-1], 3, 3)


def offaxis_rotation(t: Tensor) -> Tensor:
    """Returns the rotation (..., 3, 3) from the *view* frame of an object at ``t`` (..., 3) to the camera frame.

    An object off the optical axis looks as it would on the axis, turned: R_cam_obj = offaxis_rotation(t) @ R_view.
    We take the smallest rotation from the optical axis to t; the Jacobian of the projection it implies is symmetric,
    so it leaves no in-plane error. The original AAE's product of two axis rotations agrees to first order.
    """
    return rotation_between(torch.tensor([0.0, 0.0, 1.0], dtype=t.dtype, device=t.device), t)


def view_sphere(level: int) -> Tensor:
    """Returns the vertices of an icosphere, (V, 3) unit vectors: level 4 has 2,562."""
    import trimesh

    vertices = trimesh.creation.icosphere(subdivisions=level).vertices
    return F.normalize(torch.tensor(vertices, dtype=torch.float32))


def codebook_rotations(
    level: int, in_plane: int, axis: Tensor, cone_deg: float = 180.0, *, opposite: bool = False
) -> Tensor:
    """Returns every R_view of the codebook, (N, 3, 3), views outermost, in-plane angles innermost.

    Args:
        level: Subdivisions of the icosahedron whose vertices are the views: 10 * 4^level + 2 of them.
        in_plane: Angles of each view, evenly over a full turn, without its end point.
        axis: (3,) middle of the trained views, in the object's frame.
        cone_deg: How far from it views are trained; further ones are left out, but for a margin of one grid step, so
            that every trained view has neighbours on all sides.
        opposite: The views about the axis' other end are trained, too.
    """
    directions = view_sphere(level)
    if cone_deg < 180.0:
        cosines = directions @ F.normalize(axis.float(), dim=0)
        cosines = cosines.abs() if opposite else cosines
        reach = math.radians(cone_deg) + _grid_step(directions)
        directions = directions[cosines >= math.cos(min(math.pi, reach))]
    return turned_views(directions, in_plane)


def _grid_step(directions: Tensor) -> float:
    """Returns the angle in radians from a direction (V, 3) to its nearest neighbour, where that is largest."""
    nearest = []
    for first, some in enumerate(torch.split(directions, 1024)):
        cosines = some @ directions.T
        rows = torch.arange(len(some))
        cosines[rows, first * 1024 + rows] = -1.0
        nearest.append(cosines.amax(1))
    return float(torch.cat(nearest).clamp_max(1.0).acos().max())


def turned_views(directions: Tensor, in_plane: int) -> Tensor:
    """Returns R_view (V * in_plane, 3, 3) of directions (V, 3), each at every angle in the plane, these innermost."""
    angles = torch.arange(in_plane) * (2.0 * math.pi / in_plane)
    grid = directions[:, None].expand(-1, in_plane, 3)
    return view_rotation(grid, angles.expand(len(directions), -1)).reshape(-1, 3, 3)


def nearest_view(R_view: Tensor, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Finds the view from the nearest direction.

    Args:
        R_view: (M, 3, 3).
        views: (V, 3, 3) R_view, one of each direction.

    Returns:
        Which view (M,); what turns it into R_view, from the left, (M, 3, 3); that turn in the plane (M,), radians.
    """
    nearest = (R_view[:, 2] @ views[:, 2].T).argmax(1)
    between = R_view @ views[nearest].mT
    angle = torch.atan2(between[:, 1, 0] - between[:, 0, 1], between[:, 0, 0] + between[:, 1, 1])
    return nearest, between, angle


def project(points: Tensor, R: Tensor, t: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Projects an object's points into images.

    Args:
        points: (P, 3) or (B, P, 3) mm, in the object's frame.
        R: (B, 3, 3) R_cam_obj.
        t: (B, 3) t_cam_obj, mm.
        K: (3, 3) or (B, 3, 3), pixel centres at integer + 0.5.

    Returns:
        Continuous image coordinates (B, P, 2) in pixels and depths (B, P) in mm.
    """
    camera = points @ R.transpose(-1, -2) + t[:, None]  # (B, P, 3)
    return to_pixels(camera, K[..., None, :, :]), camera[..., 2]


def projected_box(hull: Tensor, R: Tensor, t: Tensor, K: Tensor) -> Tensor:
    """Returns the exact amodal box (B, 4) of an object in front of the camera, xyxy in pixels.

    Args:
        hull: (P, 3) or (B, P, 3) mm, the vertices of its convex hull: the extremes of an image of it are among theirs.
        R, t, K: As ``project`` takes them.
    """
    pixels, _ = project(hull, R, t, K)
    return torch.cat((pixels.amin(1), pixels.amax(1)), -1)


def box_center(boxes: Tensor) -> Tensor:
    """Returns the centres (..., 2) of boxes (..., 4)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def box_size(boxes: Tensor) -> Tensor:
    """Returns widths and heights (..., 2) of boxes (..., 4)."""
    return boxes[..., 2:] - boxes[..., :2]


def boxes_around(centers: Tensor, sizes: Tensor) -> Tensor:
    """Returns the boxes (..., 4) with these centres (..., 2), and widths and heights (..., 2), or sides (..., 1)."""
    half = sizes / 2
    return torch.cat((centers - half, centers + half), -1)


def padded_square(boxes: Tensor, pad: float) -> Tensor:
    """Returns the squares (..., 4) of side pad * max(w, h) around the boxes' centres; they may leave the image."""
    return boxes_around(box_center(boxes), box_size(boxes).amax(-1, keepdim=True) * pad)


def sampling_grid(windows: Tensor, side: int, size: tuple[float, float]) -> Tensor:
    """Returns where ``grid_sample`` (``align_corners=False``) reads windows out of an image, (N, side, side, 2).

    Args:
        windows: (N, 4) in pixels; they may leave the image.
        side: Samples along each axis, at the middles of as many equal parts.
        size: (width, height) of the image in the windows' pixels.
    """
    steps = (torch.arange(side, device=windows.device) + 0.5) / side
    x, y = (windows[:, a, None] + steps * (windows[:, a + 2] - windows[:, a])[:, None] for a in (0, 1))  # (N, side)
    x, y = x / size[0] * 2.0 - 1.0, y / size[1] * 2.0 - 1.0
    return torch.stack((x[:, None].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)), -1)


def crop_camera(K: Tensor, window: Tensor, size: int) -> Tensor:
    """Returns the cameras (B, 3, 3) that see a part of an image only.

    Args:
        K: (3, 3) or (B, 3, 3) of the whole image.
        window: (B, 4) the part, xyxy in its pixels.
        size: Side in pixels of the square image that shows it.
    """
    scale = size / box_size(window)  # (B, 2)
    zoom = torch.diag_embed(torch.cat((scale, torch.ones_like(scale[:, :1])), -1))
    zoom[:, :2, 2] = -window[:, :2] * scale
    return zoom @ K


def translation_from_box(boxes: Tensor, K: Tensor, ref_boxes: Tensor, ref_K: Tensor, ref_z: Tensor) -> Tensor:
    """Returns t_cam_obj (B, 3) in mm by projective distance, as in the original AAE.

    Args:
        boxes: (B, 4) amodal, unpadded boxes of the objects in the image of K (3, 3).
        K: Camera of the image.
        ref_boxes: (B, 4) boxes of the retrieved codebook views in the image of ``ref_K`` (3, 3), which saw the
            object's origin on the optical axis at ``ref_z``.
        ref_K: Camera of the codebook's views.
        ref_z: (B,) distance of the codebook's views in mm.
    """
    focal, ref_focal = K.diagonal()[:2], ref_K.diagonal()[:2]
    # diagonals measured in units of focal length, so that fx and fy may differ
    size = (box_size(boxes) / focal).norm(dim=-1)
    ref_size = (box_size(ref_boxes) / ref_focal).norm(dim=-1)
    z = ref_z * ref_size / size.clamp_min(1e-9)
    offset = from_pixels(box_center(ref_boxes), ref_z, ref_K)[:, :2]
    return from_pixels(box_center(boxes), z, K) - F.pad(offset, (0, 1))


def fit_translation(hull: Tensor, R_view: Tensor, boxes: Tensor, K: Tensor, start: Tensor, steps: int = 6) -> Tensor:
    """Returns the t_cam_obj (B, 3) in mm at which the object really projects to the boxes.

    The formula of ``translation_from_box`` takes the object's image for that on the optical axis. Off the axis the
    image is stretched: 30 degrees aside the distance comes out some 10 % short. A few fixed-point steps on the exact
    projection of the convex hull settle both distance and place.

    Args:
        hull: (H, 3) or (B, H, 3) convex-hull vertices in mm.
        R_view: (B, 3, 3) rotation as seen along the ray through the object.
        boxes: (B, 4) amodal, unpadded boxes in the image of K (3, 3).
        K: Camera of the image.
        start: (B, 3) a first guess in mm.
        steps: How many; each shrinks the error about tenfold. Where they lead more than ``FARTHEST_FIT`` times nearer
            or further, as in the corners of a camera that sees 160 degrees and more, the guess is returned.
    """
    t, focal = start, K.diagonal()[:2]
    size = (box_size(boxes) / focal).norm(dim=-1, keepdim=True).clamp_min(1e-9)
    for _ in range(steps):
        seen = projected_box(hull, offaxis_rotation(t) @ R_view, t, K)
        # bounded: a part that points at a near camera reaches behind it, and its projection says nothing
        t = t * ((box_size(seen) / focal).norm(dim=-1, keepdim=True) / size).clamp(0.5, 2.0)
        moved = (box_center(boxes) - box_center(seen)) / focal * t[:, 2:]
        t = torch.cat((t[:, :2] + moved, t[:, 2:]), -1)
    changed = t.norm(dim=-1, keepdim=True) / start.norm(dim=-1, keepdim=True)
    return torch.where((changed > 1 / FARTHEST_FIT) & (changed < FARTHEST_FIT), t, start)  # not finite: start


def to_opencv(K: Tensor) -> Tensor:
    """Returns K for pixel centres at integers, OpenCV's and BOP's convention, from ours (centres at integer + 0.5)."""
    shift = torch.zeros_like(K)
    shift[..., :2, 2] = 0.5
    return K - shift


def from_opencv(K: Tensor) -> Tensor:
    """Returns K for pixel centres at integer + 0.5 from OpenCV's or BOP's."""
    shift = torch.zeros_like(K)
    shift[..., :2, 2] = 0.5
    return K + shift
