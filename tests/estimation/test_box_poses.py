"""The codebook's nearest views of boxes: each of its own object's book, and where its own box puts it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from codepose import geometry
from codepose.estimation.box_poses import nearest_poses
from codepose.estimation.codebook import Codebook
from codepose.refinement.poses import Seen
from codepose.synthesis.lookalikes import thumbnails
from codepose.synthesis.world import World


def test_a_box_gets_the_nearest_view_of_its_own_objects_book(
    world: World, book_of: Callable[[World, Tensor], Codebook]
) -> None:
    """Three boxes of two objects in turn; the code of each is 0.8 along one view's and 0.6 along another's."""
    R = geometry.codebook_rotations(1, 2, world.objects[0].axis, 180.0)[:6]
    random = torch.Generator().manual_seed(0)
    shown = torch.rand(3, 3, 8, 8, generator=random)
    small = thumbnails(torch.rand(6, 3, 8, 8, generator=random)).half()
    books = [replace(book_of(world, R[k : k + 3]), codes=torch.eye(3).half()) for k in (0, 3)]
    books = [replace(book, thumbnails=small[k : k + 3]) for book, k in zip(books, (0, 3), strict=True)]
    boxes = torch.tensor([[20.0, 30.0, 60.0, 55.0], [70.0, 60.0, 100.0, 90.0], [10.0, 80.0, 40.0, 100.0]])
    objects, which = torch.tensor([1, 0, 1]), torch.zeros(3, dtype=torch.long)
    seen = Seen(torch.zeros(1, 3, 128, 128), which, boxes, objects, world.K, shown, torch.tensor([128.0, 128.0]))
    latents = torch.tensor([[0.0, 0.8, 0.6], [1.6, 0.0, 1.2], [0.6, 0.0, 0.8]])
    found = nearest_poses(books, seen, latents)
    for row, (view, book) in enumerate([(1, books[1]), (0, books[0]), (2, books[1])]):
        assert torch.equal(found.R_view[row, 0], book.rotations[view])
        R_cam, t = book.poses(torch.tensor([view]), boxes[row, None], world.K)
        torch.testing.assert_close(found.t[row], t, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(found.R[row], R_cam, rtol=0, atol=1e-5)
        wanted = (thumbnails(shown[row, None])[0] * book.thumbnails[view].float()).sum()
        torch.testing.assert_close(found.agreement[row, 0], wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.similarity[:, 0], torch.full((3,), 0.8), atol=1e-3, rtol=0)
    assert torch.equal(found.boxed, found.t)
