"""The codebook: the latent of every view, and the search for the nearest (26-28)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codepose import geometry
from codepose.estimation.nearest_codes import RoundedCodes, multiplies_bytes, nearest_in_chunks
from codepose.runtime.checkpoint import CheckpointError, load_state, save_state
from codepose.settings.crop import ROI_PAD
from codepose.synthesis.lookalikes import thumbnails

if TYPE_CHECKING:
    from codepose.estimation.pipelines import Pipeline
    from codepose.settings.schema import Settings
    from codepose.synthesis.world import World

_BATCH = 64
"""Views encoded at a time."""
_FORMAT = b"grey thumbnails"
"""What a codebook holds beside codes: one of another format is built anew."""
_EARLIER = "exact"
"""Earlier files say by it that translations are fitted to the exact projection, as they always are."""
_AGREEMENT = 0.5
"""Weight of a thumbnail's agreement beside the cosine of the codes, where both rank views."""


class CodebookError(ValueError):
    """A codebook that belongs to another network; the text says what to type."""


class DamagedCodebookError(CodebookError):
    """A file that is no codebook, or no longer."""


@dataclass(frozen=True, eq=False)
class Codebook:
    """One object's views.

    Attributes:
        label: The object's name.
        codes: (N, D) float16, unit length.
        thumbnails: (N, 64) float16, the clean views in grey at 8 x 8 pixels, without their mean, unit length.
        rotations: (N, 3, 3) float32 R_view.
        boxes: (N, 4) float32 amodal boxes in the image of ``K``, the origin on the axis at ``z_ref``.
        z_ref: Reference distance in mm.
        K: (3, 3) the reference camera.
        hull: (H, 3) float32 vertices of the object's convex hull in mm.
        offset: (3,) float32 mm, the poses' origin in the CAD file's own frame.
        fingerprint: Hash of the weights and settings that made it.
    """

    label: str
    codes: Tensor
    thumbnails: Tensor
    rotations: Tensor
    boxes: Tensor
    z_ref: float
    K: Tensor
    hull: Tensor
    offset: Tensor
    fingerprint: str

    def search(self, latents: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Finds the k codes of largest cosine similarity, exactly.

        Args:
            latents: (Q, D).
            k: How many.

        Returns:
            Similarities (Q, k) in [-1, 1], best first, and indices (Q, k).
        """
        if not 1 <= k <= len(self.codes):
            raise ValueError(f"k must lie in 1 ... {len(self.codes)}, the number of views, not be {k}")
        queries = F.normalize(latents.float(), dim=1)
        if queries.device.type == "cpu" and multiplies_bytes():
            return self._rounded.nearest(queries, k)
        return nearest_in_chunks(self.codes, queries, k)

    @cached_property
    def _rounded(self) -> RoundedCodes:
        """Half as much memory again, filled at the first search."""
        return RoundedCodes.of(self.codes)

    def agreement(self, views: Tensor, reconstructions: Tensor) -> Tensor:
        """Says how well views' clean renders agree with reconstructions, coarsely.

        Eight pixels a side tell as much as sixty-four while reconstructions are soft (docs/log), and the
        comparison costs nothing.

        Args:
            views: (Q, k) indices of ``search``.
            reconstructions: (Q, 3, c, c).

        Returns:
            (Q, k) correlations in [-1, 1].
        """
        wanted = thumbnails(reconstructions)[:, :, None]  # (Q, 64, 1)
        return (self.thumbnails[views].float() @ wanted)[..., 0]

    def rerank(self, views: Tensor, similarity: Tensor, reconstructions: Tensor) -> tuple[Tensor, Tensor]:
        """Orders views by the cosine of their codes and by their agreement with reconstructions together.

        Args:
            views: (Q, k) indices of ``search``.
            similarity: (Q, k) cosines of ``search``.
            reconstructions: (Q, 3, c, c).

        Returns:
            Views (Q, k), best first, and their cosines (Q, k).
        """
        order = (similarity + _AGREEMENT * self.agreement(views, reconstructions)).argsort(dim=1, descending=True)
        return views.gather(1, order), similarity.gather(1, order)

    def cosines(self, views: Tensor, latents: Tensor) -> Tensor:
        """Returns the cosines (Q, k) of the codes of views (Q, k) with latents (Q, D)."""
        return torch.einsum("qkd,qd->qk", self.codes[views].float(), F.normalize(latents.float(), dim=1))

    def poses(self, index: Tensor, boxes: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
        """Returns R_cam_obj (B, 3, 3), t_cam_obj (B, 3) mm of views seen in boxes (B, 4) of K's image.

        Args:
            index: (B,) the codebook's views.
            boxes: (B, 4) amodal, unpadded.
            K: (3, 3) the image's camera.
        """
        R_view = self.rotations[index]
        z = torch.full_like(boxes[:, 0], self.z_ref)
        t = geometry.translation_from_box(boxes, K, self.boxes[index], self.K, z)
        t = geometry.fit_translation(self.hull, R_view, boxes, K, t)
        return geometry.offaxis_rotation(t) @ R_view, t

    def placed(self, index: Tensor, boxes: Tensor, K: Tensor) -> Tensor:
        """Returns about where ``poses`` puts views, t (B, 3) mm, in less time: their boxes stand for their hulls.

        Off the axis a part that leaves its box's corners empty comes out a little too far away.

        Args:
            index, boxes, K: As for ``poses``.
        """
        corners = self.boxes[index][:, [[0, 1], [2, 1], [2, 3], [0, 3]]]  # (B, 4, 2)
        depth = corners.new_full(corners.shape[:2], self.z_ref)
        around = geometry.from_pixels(corners, depth, self.K) - corners.new_tensor([0.0, 0.0, self.z_ref])
        t = geometry.translation_from_box(boxes, K, self.boxes[index], self.K, depth[:, 0])
        return geometry.fit_translation(around, torch.eye(3).to(t).expand(len(t), 3, 3), boxes, K, t, steps=3)

    def to(self, device: torch.device) -> Codebook:
        """Returns a copy on a device."""
        where = {
            name: getattr(self, name).to(device)
            for name in ("codes", "thumbnails", "rotations", "boxes", "K", "hull", "offset")
        }
        return dataclasses.replace(self, **where)

    def _require_shapes(self) -> None:
        views, shapes = len(self.codes), {"thumbnails": (64,), "rotations": (3, 3), "boxes": (4,)}
        wanted = {name: (views, *rest) for name, rest in shapes.items()} | {"K": (3, 3), "offset": (3,)}
        wanted |= {"codes": (views, self.codes.shape[-1]), "hull": (len(self.hull), 3)}
        wrong = [name for name, shape in wanted.items() if tuple(getattr(self, name).shape) != shape]
        if wrong or not views:
            raise ValueError(f"{', '.join(wrong) or 'codes'} of a wrong shape")

    def save(self, path: str | Path) -> None:
        """Writes the codebook as safetensors, in one step, with a checksum."""
        save_state(path, {name: getattr(self, name) for name in self.__dataclass_fields__})

    @classmethod
    def load(cls, path: str | Path, fingerprint: str) -> Codebook:
        """Reads a codebook.

        Raises:
            CodebookError: It was made by other weights or settings.
            DamagedCodebookError: It is damaged, or no codebook.
        """
        try:
            book = cls(**{name: value for name, value in load_state(path).items() if name != _EARLIER})
            book._require_shapes()
        except (CheckpointError, TypeError, AttributeError, ValueError) as error:
            raise DamagedCodebookError(f"{path} is no codebook: {error}") from None
        if book.fingerprint != fingerprint:
            raise CodebookError(
                f"{path} was made by other weights or settings than this network's: delete it, and it is built anew"
            )
        return book


def add_weights(digest: hashlib._Hash, modules: Iterable[nn.Module]) -> None:
    """Adds networks' weights to a hash."""
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())


def fingerprint(pipeline: Pipeline) -> str:
    """Returns a hash of everything the latents depend on: weights, networks, camera, crop, views."""
    settings = pipeline.settings
    digest = hashlib.sha256()
    # a run keeps a copy of its meshes, so a moved folder may name them differently; views that look the same have the
    # same code, whether or not the settings say so
    parts = [settings.network, settings.data.camera, settings.codebook]
    parts += [o.model_copy(update={"mesh": "", "symmetries": "auto"}) for o in settings.objects]
    # only what is not the default: a setting that a new version adds makes no codebook stale
    chosen = [part.model_dump(mode="json", exclude_defaults=True) for part in parts]
    data = settings.data
    digest.update(json.dumps([chosen, ROI_PAD, data.antialias, pipeline.canvas], sort_keys=True).encode())
    digest.update(_FORMAT)
    add_weights(digest, pipeline.modules())
    return digest.hexdigest()


@torch.no_grad()
def build_codebook(
    pipeline: Pipeline, world: World, index: int, progress: Callable[[float], None] = lambda share: None
) -> Codebook:
    """Encodes every view of object ``index`` through inference's own path: its box, its RoI, its latent.

    Args:
        pipeline: Its networks.
        world: Its meshes.
        index: Which of its objects.
        progress: Is told which share of the views is done.
    """
    settings: Settings = pipeline.settings
    model = world.objects[index]
    views = settings.codebook
    rotations = geometry.codebook_rotations(
        views.level, views.in_plane, model.axis, model.cone_deg, opposite=model.opposite
    ).to(world.device)
    codes, small, boxes = [], [], []
    first = (pipeline.canvas - settings.network.crop) // 2
    window = slice(first, first + settings.network.crop)
    for part in torch.split(rotations, _BATCH):
        objects = torch.full((len(part),), index, device=world.device)
        images = world.clean_views(objects, part, canvas=pipeline.canvas)
        reference = world.boxes(objects, part, world.reference_translations(objects))
        inside = _boxes_in_canvas(reference, pipeline.canvas, settings.network.crop)
        prepared = pipeline.prepare(images.to(pipeline.device))
        order = torch.arange(len(part), device=pipeline.device)
        latents = pipeline.latents(prepared, inside.to(pipeline.device), order)
        codes.append(F.normalize(latents, dim=1).half())
        small.append(thumbnails(images[..., window, window]).half())
        boxes.append(reference)
        progress(sum(len(done) for done in codes) / len(rotations))
    return Codebook(
        label=model.label,
        codes=torch.cat(codes),
        thumbnails=torch.cat(small).to(pipeline.device),
        rotations=rotations.to(pipeline.device),
        boxes=torch.cat(boxes).to(pipeline.device),
        z_ref=model.z_ref,
        K=world.K.to(pipeline.device),
        hull=world.renderer.hull(index).to(pipeline.device),
        offset=model.offset.to(pipeline.device),
        fingerprint=fingerprint(pipeline),
    )


def _boxes_in_canvas(boxes: Tensor, canvas: int, crop: int) -> Tensor:
    """Where boxes (N, 4) of reference views lie in images of ``canvas`` pixels that show these views in the middle.

    A box's padded square fills ``crop`` pixels there.
    """
    size = geometry.box_size(boxes)
    middle = torch.full_like(size, canvas / 2)
    return geometry.boxes_around(middle, size / size.amax(1, keepdim=True) * (crop / ROI_PAD))
