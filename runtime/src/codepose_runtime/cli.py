"""``codepose-runtime FOLDER photo.png --K fx,fy,cx,cy``: what ``codepose predict`` writes as JSON."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status: 1 where a photo was skipped or nothing could be done."""
    options = _parser().parse_args(arguments)
    warnings.showwarning = lambda message, *_, **__: _complain(f"warning: {message}")
    try:
        return _predict(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141
    except (ValueError, OSError) as error:  # all of the runner's own say in one line what is wrong
        _complain(" ".join(str(error).split()))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("codepose-runtime", description="Find the parts of an exported run in photos.")
    parser.add_argument("folder", type=Path, help="what `codepose export RUN FOLDER` wrote")
    parser.add_argument("sources", nargs="+", help="photos, folders of photos, quoted patterns")
    parser.add_argument("--K", required=True, help="fx,fy,cx,cy in pixels of the upright photo, or fov=60")
    parser.add_argument("--out", type=Path, default=Path("predictions"), help="for predictions.jsonl and NAME.json")
    parser.add_argument("--min-score", type=float, help="default: 0.05 with refinement, 0.5 without")
    parser.add_argument("--min-judged", type=float, default=3.0)
    parser.add_argument("--min-confidence", type=float, default=0.0)
    parser.add_argument("--max-detections", type=int, help="of each object in an image")
    parser.add_argument("--tiles", type=int, default=1)
    parser.add_argument(
        "--distance",
        nargs=2,
        type=float,
        metavar=("NEAR", "FAR"),
        help="nearest and farthest distance of the part from the camera, mm, roughly",
    )
    parser.add_argument("--no-refine", action="store_true", help="the codebook's nearest view")
    return parser


def _predict(options: argparse.Namespace) -> int:
    from codepose_runtime.cameras.camera import read_camera
    from codepose_runtime.cameras.camera_entries import CameraError
    from codepose_runtime.estimation.answers import Wishes, look
    from codepose_runtime.networks.windows import require_tiles
    from codepose_runtime.predict.files import JsonFiles
    from codepose_runtime.predict.output import Folder, Prediction
    from codepose_runtime.predict.sources import SourceError, Video, find_sources
    from codepose_runtime.runner import PoseRunner
    from codepose_runtime.settings.distance import require_distance

    require_tiles(options.tiles)
    if options.distance is not None:
        require_distance(options.distance)
    given, sources = read_camera(options.K), find_sources(options.sources)
    if any(isinstance(source, Video) for source in sources):
        raise ValueError("codepose-runtime looks at photos, not at videos")
    runner = PoseRunner(options.folder, refine=not options.no_refine)
    names = ("min_score", "min_judged", "min_confidence", "tiles", "max_detections", "distance")
    wishes = Wishes(**{name: getattr(options, name) for name in names})
    if options.min_confidence > 0 and runner.estimator.confidence is None:
        raise ValueError("--min-confidence needs a calibrated network: calibrate the run and export it again")
    estimator: Any = runner.estimator
    files, skipped, done = JsonFiles(Folder(options.out)), 0, False
    try:
        for source in sources:
            try:
                (image,) = source.images()
                camera = given.for_size(image.shape[1], image.shape[0])
                start = time.perf_counter()
                found, straight = look(estimator, image, camera, wishes)
            except (SourceError, CameraError) as error:
                _complain(f"{source.path} skipped: {error}")
                skipped += 1
                continue
            files.write(Prediction(source, 0, camera, found, 1000.0 * (time.perf_counter() - start), straight))
            words = [f"{d.label}, {d.sureness}, at {d.t_cam_obj.round().astype(int).tolist()} mm" for d in found]
            print(f"{Path(source.path).name}: {'; '.join(words) or 'nothing found'}")
        done = True
    finally:
        files.close(done)
    return int(skipped > 0)


def _complain(text: str) -> None:
    print(f"codepose-runtime: {text}", file=sys.stderr)
