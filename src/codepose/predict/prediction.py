"""Photos, videos and webcams in; poses out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import fields
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from codepose.cameras.camera import Camera, FieldOfView, read_camera
from codepose.cameras.camera_entries import CameraError
from codepose.estimation.answers import Wishes, look
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.smoothing import PoseSmoother
from codepose.estimation.tracking import Tracker
from codepose.networks.windows import require_tiles
from codepose.predict.bop_file import BopFile
from codepose.predict.depth_pairs import Depths
from codepose.predict.files import OUTPUTS, require_outputs
from codepose.predict.output import Folder, Output, Prediction, Records, file_of
from codepose.predict.overlay import Overlay
from codepose.predict.sources import Source, SourceError, Video, find_sources
from codepose.runtime.complaints import complain
from codepose.runtime.outcome import Outcome
from codepose.runtime.progress import Display, shown_if_any
from codepose.runtime.ranks import Shares, everyones, first_before_others, layout, rank
from codepose.runtime.run import Run
from codepose.settings.errors import ConfigError
from codepose.synthesis.world import World

if TYPE_CHECKING:
    from codepose.cli.options import Bag, Predict


def predict_images(options: Predict) -> Outcome:
    """Predicts on photos, folders, patterns, videos or a webcam, and gives the outputs what is found.

    A source that cannot be read, or whose size does not fit the camera, is reported and skipped.

    Returns:
        Where the files are, how many images there were, what was skipped (the exit status is then 1), and, with
        ``options.json``, every image's prediction.

    Raises:
        ConfigError: The camera or a source cannot be used at all; the text says what to type.
        RunError: The run is none, or its training is not finished.
    """
    require_tiles(options.tiles)
    require_outputs(options.write)
    camera = read_camera(options.K)
    everything, depths = _sources(options)
    run = Run.open(options.run)
    if options.obj_ids and options.bop is None:
        raise ConfigError("--obj-ids goes with --bop: it numbers the objects in that file")
    results = None if options.bop is None else BopFile.new(options.bop, run, options.obj_ids, everything)
    predictor = Predictor(
        load_estimator(with_thresholds(run, options), options, _device(options)), camera, options, depths
    )
    world = predictor.estimator.world
    overlay = Overlay(world if world.device.type == "cpu" else World(run.settings))
    run_folder = run.path if run.path == options.run else Path()  # a network that codepose brings keeps nothing of ours
    folder = options.out or run_folder / "predictions"
    own_share = Shares(len(everything)).own
    sources, place = everything[own_share], Folder(folder, everything[: own_share.start])
    outputs = [OUTPUTS[name](place, overlay) for name in options.write] + ([] if results is None else [results])
    records = Records()
    outputs += [records] if options.json else []
    with Progress(sources, predictor.console, options.max_frames) as progress:
        skipped = _predicted(predictor, sources, outputs, progress)
        progress.merge()
    skipped = [one for ours in everyones(skipped) for one in ours]
    predictor.say(f"{progress.summary()}: {', '.join(options.write) or 'nothing'} in {folder}")
    if progress.nothing and predictor.estimator.judges:
        predictor.say("nothing was found: --min-judged 0 shows poses that the judge, too, is not sure of")
    value = {"folder": folder, "images": progress.done, "skipped": skipped}
    return Outcome(value | ({"predictions": records.values} if options.json else {}), status=int(bool(skipped)))


def _sources(options: Predict) -> tuple[list[Source], Depths | None]:
    """What is predicted on, and the depth images that belong to it, where there are some."""
    sources = find_sources(options.sources)
    _require_uses(options, sources)
    if options.depth is None:
        return sources, None
    depths = Depths.find(options.depth, options.depth_scale, sources)
    return depths.photos(sources), depths


def _predicted(
    predictor: Predictor, sources: list[Source], outputs: list[Output], progress: Progress
) -> list[dict[str, str]]:
    """Predicts on sources and gives the outputs what is found; returns which sources were skipped, and why."""
    skipped, done = [], False
    try:
        for source in sources:
            try:
                for prediction in predictor(source):
                    for output in outputs:
                        output.write(prediction)
                    progress.advance(prediction)
            except (SourceError, CameraError) as error:
                complain(f"codepose predict: {source.path} skipped: {error}")
                skipped.append({"file": file_of(source), "reason": str(error)})
            except KeyboardInterrupt:
                if not (isinstance(source, Video) and source.live):
                    raise
        done = True
    finally:
        for output in outputs:
            output.close(done)
    return skipped


def _require_uses(options: Predict, sources: list[Source]) -> None:
    """Refuses options that nothing among the sources would make use of."""
    for name in ("smooth", "track", "max_frames"):
        if getattr(options, name) and not any(isinstance(source, Video) for source in sources):
            raise ConfigError(f"--{name.replace('_', '-')} is for videos and webcams, and none is named")
    if options.depth is None and options.depth_scale != 1.0:
        raise ConfigError("--depth-scale goes with --depth")


def with_thresholds(run: Run, options: Predict | Bag) -> Run:
    """The run with the detector's thresholds that the options ask for."""
    detection = run.settings.detection
    changes = {
        "score": min(detection.score, 1.0 if options.min_score is None else options.min_score),
        "nms": detection.nms if options.nms is None else options.nms,
        "per_object": max(detection.per_object, options.max_detections or 1),  # of these some may be too unsure
    }
    return Run(run.path, run.settings.model_copy(update={"detection": detection.model_copy(update=changes)}))


def wishes_of(options: Predict | Bag) -> Wishes:
    """What the options ask of each image."""
    return Wishes(**{field.name: getattr(options, field.name) for field in fields(Wishes)})


def tracker_of(estimator: PoseEstimator) -> Tracker:
    """One for the estimator's parts."""
    parts = estimator.world.objects
    return Tracker(
        [float(o.mesh.diameter) for o in parts], [o.cad_symmetries for o in parts], [o.offset.numpy() for o in parts]
    )


def load_estimator(run: Run, options: Predict | Bag, device: str) -> PoseEstimator:
    """The run's, as the options ask for, on a device."""
    with shown_if_any("codebook") as progress:
        estimator = first_before_others(
            lambda: PoseEstimator.load(
                run, options.method, device, refine=options.refine, compile=options.compile, progress=progress
            )
        )
    if options.min_confidence > 0 and estimator.confidence is None:
        raise ConfigError(
            f"--min-confidence needs a calibrated network: type codepose calibrate {options.run} --method "
            f"{options.method}"
        )
    return estimator


def _device(options: Predict) -> str:
    """Where this process predicts; several divide the sources."""
    if layout(options.devices, options.nodes) == (1, 1):
        return options.device
    from codepose.runtime.devices import make_fabric  # takes seconds to import

    return str(make_fabric(options.device, options.devices, options.nodes).device)


class Predictor:
    """Runs an estimator over sources.

    Args:
        estimator: Loaded.
        camera: Of all sources; fitted to each one's size.
        options: ``min_score``, ``min_confidence``, ``tiles``, ``max_detections``, ``max_frames``,
            ``smooth`` and ``track`` count.
        depths: The photos' depth images; None = there are none.
    """

    def __init__(
        self, estimator: PoseEstimator, camera: Camera | FieldOfView, options: Predict, depths: Depths | None = None
    ) -> None:
        self.estimator = estimator
        self.options = options
        self.depths = depths
        self.console = Console(quiet=rank() > 0)
        self._given = camera
        self._camera = lru_cache(maxsize=4)(self._fitted)  # a few sizes, each with its undistortion map

    def __call__(self, source: Source) -> Iterator[Prediction]:
        """Yields each image's prediction.

        Raises:
            SourceError: The source cannot be read.
            CameraError: The camera does not fit its size.
        """
        moving = isinstance(source, Video)
        options, wishes = self.options, wishes_of(self.options)
        smoother = self._smoother() if moving and options.smooth else None
        tracker = tracker_of(self.estimator) if moving and options.track else None
        for number, image in enumerate(islice(source.images(), options.max_frames if moving else None)):
            height, width = image.shape[:2]
            camera = self._camera(width, height)
            measured = None if self.depths is None else self.depths.of(source, width, height)
            start = time.perf_counter()
            detections, straight = look(self.estimator, image, camera, wishes, measured)
            detections = detections if smoother is None else smoother(detections)
            detections = detections if tracker is None else tracker(detections, camera.K)
            time_ms = 1000.0 * (time.perf_counter() - start)
            yield Prediction(source, number, camera, detections, time_ms, straight)

    def _smoother(self) -> PoseSmoother:
        parts = self.estimator.world.objects
        return PoseSmoother([o.cad_symmetries for o in parts], [o.offset.numpy() for o in parts])

    def say(self, text: str) -> None:
        """Prints a line."""
        self.console.out(text, highlight=False)

    def _fitted(self, width: int, height: int) -> Camera:
        """The camera for one size, with a note where it is not the given one."""
        camera, fitted = self._given, self._given.for_size(width, height)
        focal = f"fx {fitted.K[0, 0]:.1f}, fy {fitted.K[1, 1]:.1f}"
        if isinstance(camera, FieldOfView):
            self.say(f"{width} x {height}: {focal} from a field of view of {camera.horizontal_deg:g} degrees")
        elif camera.width is not None and camera is not fitted:
            self.say(f"{width} x {height}: the calibration for {camera.width} x {camera.height} is scaled: {focal}")
        column, row = fitted.K[:2, 2]
        if not (0 <= column < width and 0 <= row < height):
            self.say(
                f"{width} x {height}: the principal point {column:.0f}, {row:.0f} lies outside the photo; is K that of "
                "photos of this size?"
            )
        return fitted


class Progress:
    """Says what was found: a line a photo, and a bar with images/s where there are several images.

    Args:
        sources: What will be looked at.
        console: Where to.
        most: At most so many images of each video or webcam; None = all.
    """

    def __init__(self, sources: list[Source], console: Console, most: int | None = None) -> None:
        counts = [
            source.count if most is None or not isinstance(source, Video) else min(source.count or most, most)
            for source in sources
        ]
        self._total = None if None in counts else sum(count or 0 for count in counts)
        self._console = console
        self._display = None if self._total == 1 else Display("predicting", console)
        self._stack = ExitStack()
        self.done = self._found = 0
        self._start = time.perf_counter()

    def __enter__(self) -> Progress:
        if self._display is not None:
            self._stack.enter_context(self._display)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def advance(self, prediction: Prediction) -> None:
        """Counts an image that is done."""
        self.done += 1
        self._found += sum(not d.lost for d in prediction.found)
        source = prediction.source
        if not isinstance(source, Video):
            words = [
                f"{d.label}, {d.sureness}, at {d.t_cam_obj.round().astype(int).tolist()} mm"
                f"{' (no depth supports it)' if d.depth_fitted is False else ''}"
                for d in prediction.found
            ]
            line = f"{source.path.name}: {'; '.join(words) or 'nothing found'}"
            self._console.out(line, highlight=False)
        if self._display is not None:
            share = 0.0 if self._total is None else min(1.0, self.done / self._total)
            self._display.update(share, self.summary())

    def merge(self) -> None:
        """Counts the images of all ranks."""
        self.done, self._found = sum(everyones(self.done)), sum(everyones(self._found))

    @property
    def nothing(self) -> bool:
        """Whether images are done, and in none of them anything was found."""
        return self.done > 0 and self._found == 0

    def summary(self) -> str:
        """Returns how many images are done, and how fast, files and overlays included."""
        rate = self.done / max(1e-9, time.perf_counter() - self._start)
        return f"{self.done} image{'' if self.done == 1 else 's'}, {rate:.1f} images/s"
