"""Predictions as a BOP results file: which object, scene and image each row is of."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from codepose.bop.models import numbered
from codepose.bop.results import PoseResult, write_results
from codepose.predict.output import Prediction
from codepose.predict.sources import Photo, Source
from codepose.runtime.ranks import everyones, rank
from codepose.runtime.run import Run
from codepose.settings.errors import ConfigError


@dataclass
class BopFile:
    """A results file that grows until it is written.

    Attributes:
        path: Where it goes.
        obj_ids: The dataset's numbers of the run's objects.
        places: Scene and image of the photos that lie in a dataset, as SCENE/rgb/IMAGE.png.
    """

    path: Path
    obj_ids: Sequence[int]
    places: Mapping[Source, tuple[int, int]]
    _rows: list[PoseResult] = field(default_factory=list)
    _lines: int = 0

    @cached_property
    def _own_scene(self) -> int:
        """The scene of the images that lie in no dataset: 0, or one that those of a dataset do not have."""
        scenes = {scene for scene, _ in self.places.values()}
        return 0 if 0 not in scenes else 1 + max(scenes)

    @classmethod
    def new(cls, path: Path, run: Run, obj_ids: Sequence[int], sources: Sequence[Source]) -> BopFile:
        """Checks, before anything is predicted, that the file can be written.

        Args:
            path: Of the file.
            run: Whose objects are found.
            obj_ids: One number for each; none = those in their names, such as obj_000005, else 1, 2, ...
            sources: All that will be looked at.

        Raises:
            ConfigError: It is a folder, there is not one number an object, or two photos are the same image.
            OSError: Its folder cannot be made.
        """
        if path.is_dir() or not path.name:
            raise ConfigError(f"--bop {path} is a folder: name a CSV file")
        names = [one.name for one in run.settings.objects]
        if obj_ids and len(obj_ids) != len(names):
            raise ConfigError(f"--obj-ids: the run has {len(names)} objects ({', '.join(names)}), not {len(obj_ids)}")
        if len(set(obj_ids)) < len(obj_ids):
            raise ConfigError("--obj-ids: each object has a number of its own")
        places: dict[Source, tuple[int, int]] = {}
        first: dict[tuple[int, int], Source] = {}
        for source in sources:
            place = _place(source)
            if place is None:
                continue
            other = first.setdefault(place, source)
            if other is not source:
                raise ConfigError(
                    f"--bop: {other.path} and {source.path} are both image {place[1]} of scene {place[0]}: predict on "
                    "one split at a time"
                )
            places[source] = place
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(path, obj_ids or numbered(names), places)

    def write(self, prediction: Prediction) -> None:
        """Keeps the next image's poses; one that lies in no dataset keeps its number among all, in another scene."""
        scene, image = self.places.get(prediction.source, (self._own_scene, self._lines))
        self._lines += 1
        for detection in prediction.found:
            row = (
                self.obj_ids[detection.object_index],
                detection.rank,
                detection.R_cam_obj,
                detection.t_cam_obj,
                prediction.time_ms / 1000.0,
            )
            self._rows.append(PoseResult(scene, image, *row))

    def close(self, done: bool) -> None:
        """Writes what was kept, the other ranks' rows behind the first one's."""
        if done:
            self._merge()
        if rank() == 0:
            write_results(self.path, self._rows)

    def _merge(self) -> None:
        before = 0
        for number, (rows, lines) in enumerate(everyones((self._rows, self._lines))):
            if number > 0:
                self._rows += [self._shifted(row, before) for row in rows]
            before += lines

    def _shifted(self, row: PoseResult, by: int) -> PoseResult:
        own = row.scene_id == self._own_scene
        return replace(row, im_id=row.im_id + by) if own else row


def _place(source: Source) -> tuple[int, int] | None:
    """Scene and image of a photo in a BOP dataset, of whichever camera."""
    if not isinstance(source, Photo):
        return None
    path = Path(os.path.abspath(source.path)).as_posix()  # links stay
    found = re.search(r"/(\d+)/(?:rgb|gray)\w*/(\d+)\.\w+$", path)
    return None if found is None else (int(found[1]), int(found[2]))
