"""The commands' options: light to import, so that help comes at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from codepose.runtime.outcome import Command
from codepose.settings.data import Unit
from codepose.settings.distance import require_distance
from codepose.settings.errors import ConfigError
from codepose.settings.files import DEFAULT_PRESET
from codepose.settings.schema import Settings
from codepose.settings.values import MUCH

Method = Literal["joint", "extended", "original"]
Scale = Literal["smoke", "cpu", "paper"]


@dataclass
class Demo(Command):
    """Train the quick preset on the built-in hammer, compare it with the baselines, and report."""

    out: Path | None = None
    """Run folder; an interrupted demo goes on from there. None = runs/demo, or runs/pretrained."""
    pretrained: bool = False
    """Train nothing: show what the network that comes with codepose finds in new scenes, in a minute or two."""
    joint_only: bool = False
    """Leave out the two-network baselines."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass
class Preview(Command):
    """Draw a contact sheet of the training data: look at it before you train."""

    meshes: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """CAD files (STEP, PLY, OBJ, STL, GLB, 3MF); none = the preset's."""
    unit: Unit | None = None
    """Unit of the files' coordinates; None = the preset's, mm."""
    body: str | None = None
    """Only the body or assembly that the STEP or GLB files call so; None = the preset's, all."""
    out: Path = Path("preview.png")
    """PNG file to write."""
    count: int = 8
    """How many samples."""
    difficulty: float = 1.0
    """Of the curriculum, from 0 (clean) to 1."""
    preset: str = DEFAULT_PRESET
    """One of the shipped presets, or a YAML file."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)


@dataclass
class Train(Command):
    """Train a network on your CAD model."""

    meshes: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """CAD files (STEP, PLY, OBJ, STL, GLB, 3MF); none = the preset's.
    The first object's settings (--objects.0.view-cone-deg 180)
    hold for all of them."""
    unit: Unit | None = None
    """Unit of the files' coordinates; None = the preset's, mm."""
    body: str | None = None
    """Only the body or assembly that the STEP or GLB files call so; None = the preset's, all."""
    out: Path = Path("runs/part")
    """Run folder."""
    methods: tuple[Method, ...] = ("joint",)
    """joint (the paper's), extended and original (its two-network baselines)."""
    resume: bool = False
    """Go on with the run in this folder."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    devices: int = 1
    """How many of them on each machine, working as one; torchrun and srun start the processes themselves."""
    nodes: int = 1
    """How many machines; see docs/scaling.md."""
    preset: str = DEFAULT_PRESET
    """One of the shipped presets, or a YAML file."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)


@dataclass
class Calibrate(Command):
    """Learn from validation scenes how far a network's poses may be trusted; train does it by itself."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    method: Method = "joint"
    """Which of the trained methods."""
    images: int | None = None
    """How many scenes; None = the settings' validation split."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass
class Evaluate(Command):
    """Measure a trained run on held-out scenes."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    methods: tuple[Method, ...] = ()
    """Which methods; none = all that are trained."""
    images: int | None = None
    """How many scenes; None = the settings' test split."""
    split: str = "test"
    """val for choosing anything, test for the final numbers; with --bop, which folder of the dataset."""
    refine: bool = False
    """Add a row per method with poses refined by its reconstruction and the photo's edges; with --bop, refine the poses
    that are measured."""
    depth: bool = False
    """Add a row per method with poses fitted to the scenes' depth, which is free of noise; with --bop, fit to the
    dataset's depth images."""
    bop: Path | None = None
    """Measure on a BOP dataset instead: its folder. One method, joint unless --methods says another."""
    tiles: int = 1
    """With --bop: besides each whole image, look at overlapping squares of 1/TILES of its longer side."""
    obj_ids: tuple[int, ...] = ()
    """The BOP dataset's numbers of the run's objects; none = those in their names (obj_000005), else 1, 2, ..."""
    camera: str = ""
    """With --bop: which of the cameras, where scenes have several (scene_camera_photoneo.json: photoneo)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    devices: int = 1
    """How many of them on each machine, working as one; torchrun and srun start the processes themselves."""
    nodes: int = 1
    """How many machines; see docs/scaling.md."""


@dataclass
class Predict(Command):
    """Find the part in photos, videos or a webcam's pictures."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    sources: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Photos, folders of photos, quoted patterns ("photos/*.jpg"), videos, webcam or webcam:1."""
    K: str = ""
    """The camera: fx,fy,cx,cy in pixels of the upright photo (OpenCV's convention), fov=60 (horizontal, degrees), or
    a calibration file: JSON, OpenCV or ROS YAML, COLMAP cameras.txt. Lens distortion is taken out."""
    out: Path | None = None
    """Folder for predictions.jsonl, NAME.json and NAME.overlay.png or .mp4; None = RUN/predictions, or ./predictions
    for a network that codepose brings."""
    write: tuple[str, ...] = ("json", "overlays")
    """What goes there; docs/extending.md adds to it."""
    method: Method = "joint"
    """Which of the trained methods."""
    min_score: float | None = None
    """Leave out detections below; None = 0.05 with refinement, whose judge sorts them, 0.5 without."""
    min_judged: float = 3.0
    """Leave out refined poses that the judge, which compares photo and render, holds for less likely right than these
    log-odds. Smaller finds more, larger is wrong less often."""
    min_confidence: float = 0.0
    """Leave out poses that are right with a smaller probability (0 = keep all)."""
    max_detections: int | None = None
    """At most so many of each object in an image, best first; None = the run's detection.per_object (10; with --tiles:
    in each tile, and in all TILES times as many)."""
    nms: float | None = None
    """Of two boxes of one object whose IoU is larger, keep the better one; None = the run's detection.nms (0.5). Larger
    for parts that lie close together, smaller where one part gets two boxes."""
    tiles: int = 1
    """For parts that are small in large photos: besides the whole photo, look at overlapping squares of 1/TILES of its
    longer side, each at the network's scale."""
    distance: tuple[float, float] | None = None
    """Nearest and farthest distance of the part from the camera, mm, roughly: what is found elsewhere is left out."""
    refine: bool = True
    """Refine poses by render-and-compare with the reconstruction and the photo; --no-refine is the paper's lookup."""
    depth: Path | None = None
    """Depth along the optical axis, pixel for pixel the photo's: poses are fitted to it. An image (16-bit PNG, TIFF,
    NPY) for one photo, or a folder of images with the photos' names. 0 = not measured."""
    depth_scale: float = 1.0
    """A stored depth times this is mm: 1000 for metres."""
    smooth: bool = False
    """Smooth the poses of a video over time."""
    track: bool = False
    """Follow the parts of a video: each keeps its number, and one that is not found for up to 30 frames is told at its
    predicted pose, as lost."""
    max_frames: int | None = None
    """Stop a video or webcam after so many frames."""
    bop: Path | None = None
    """Also write a results file in BOP's CSV format."""
    obj_ids: tuple[int, ...] = ()
    """With --bop: the numbers of the run's objects there; none = those in their names (obj_000005), else 1, 2, ..."""
    compile: bool = False
    """Compile the networks first, which takes minutes: for many photos or a video on a GPU."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    devices: int = 1
    """How many of them on each machine, working as one; torchrun and srun start the processes themselves."""
    nodes: int = 1
    """How many machines; see docs/scaling.md."""


@dataclass
class Bag(Command):
    """Find the part in the images of a ROS bag; write a bag of vision_msgs/Detection3DArray and tf2_msgs/TFMessage."""

    bag: Annotated[Path, tyro.conf.Positional]
    """A bag of ROS 1 (.bag) or ROS 2 (.mcap, .db3, or its folder)."""
    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    image: str
    """The images' topic: sensor_msgs/Image or CompressedImage."""
    info: str
    """Their camera's topic: sensor_msgs/CameraInfo. Lens distortion is taken out."""
    out: Path
    """The new bag, of ROS 2: NAME.mcap is a file, another name a folder."""
    rectified: bool = False
    """The images were rectified already, as image_proc's image_rect: the CameraInfo's P counts, without distortion."""
    method: Method = "joint"
    """Which of the trained methods."""
    min_score: float | None = None
    """Leave out detections below; None = 0.05 with refinement, whose judge sorts them, 0.5 without."""
    min_judged: float = 3.0
    """Leave out refined poses that the judge, which compares photo and render, holds for less likely right than these
    log-odds. Smaller finds more, larger is wrong less often."""
    min_confidence: float = 0.0
    """Leave out poses that are right with a smaller probability (0 = keep all)."""
    max_detections: int | None = None
    """At most so many of each object in an image, best first; None = the run's detection.per_object."""
    nms: float | None = None
    """Of two boxes of one object whose IoU is larger, keep the better one; None = the run's detection.nms (0.5)."""
    tiles: int = 1
    """For small parts in large images: besides the whole image, look at overlapping squares of 1/TILES of its side."""
    distance: tuple[float, float] | None = None
    """Nearest and farthest distance of the part from the camera, mm, roughly: what is found elsewhere is left out."""
    track: bool = False
    """Follow the parts from image to image: each keeps its name, and one that is not found for up to 30 images is told
    at its predicted pose, with a score of 0."""
    refine: bool = True
    """Refine poses by render-and-compare; --no-refine is the paper's lookup."""
    compile: bool = False
    """Compile the networks first, which takes minutes: for a long bag on a GPU."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass
class ShowSettings(Command):
    """Print the settings that a newcomer needs, as options of train: their values in a preset, and what they say."""

    preset: str = DEFAULT_PRESET
    """One of the shipped presets, or a YAML file."""
    all: bool = False
    """Print every setting."""


@dataclass
class Report(Command):
    """Print a run's numbers and where its report is."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""


@dataclass
class MeshDoctor(Command):
    """Look a CAD file over before training: size, unit, surface, colours, symmetries, and a sheet of six views."""

    mesh: Annotated[Path, tyro.conf.Positional]
    """CAD file (STEP, PLY, OBJ, STL, GLB, 3MF), or the name of a built-in mesh."""
    unit: Unit = "mm"
    """Unit of the file's coordinates; 3MF and STEP files say it themselves."""
    center: bool = False
    """Move the origin to the middle of the bounding box, in the sheet and in what --save writes."""
    faces: int = 0
    """Reduce the mesh to so many faces, in the sheet and in what --save writes; 0 = keep them."""
    out: Path = Path("sheet.png")
    """PNG file of the six views."""
    save: Path | None = None
    """Also write the part as a PLY file in mm, with its colours."""
    report: Path | None = None
    """Also write what is known of the part to this JSON file, of one that cannot be trained, too."""
    K: str = ""
    """Your camera, as for codepose predict (fov=60: photos wider than high): with --distance, the settings for it are
    added to what to type."""
    distance: tuple[float, float] | None = None
    """Nearest and farthest distance of the part from the camera, mm."""
    body: str = ""
    """Only the body or assembly that a STEP or GLB file calls so; empty = all of the file."""


@dataclass
class Render(Command):
    """Render labelled images in BOP format, for training or testing other tools."""

    bop: Path
    """Folder of the BOP dataset: a new one, or one of the same objects to which a split is added."""
    meshes: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """CAD files (STEP, PLY, OBJ, STL, GLB, 3MF), or one run folder:
    its objects and its settings, whatever options say of these;
    none = the preset's."""
    unit: Unit | None = None
    """Unit of the files' coordinates; None = the preset's, mm."""
    body: str | None = None
    """Only the body or assembly that the STEP or GLB files call so; None = the preset's, all."""
    images: int = 100
    """How many images."""
    split: Literal["train", "val", "test"] = "train"
    """Other random numbers and backgrounds for each; test also gets test_targets_bop19.json."""
    symmetries: Path | None = None
    """A models_info.json: the symmetries of its entries are written instead of the objects' own: 1, 2, ..., or those of
    the numbers in the meshes' names (obj_000005)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    preset: str = DEFAULT_PRESET
    """One of the shipped presets, or a YAML file."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)


@dataclass
class Reproduce(Command):
    """Run the paper's experiment: {T1, T2} x {128, 4096} x {joint, extended, original}, and a row it lacks."""

    out: Path = Path("runs/paper")
    """Folder; an interrupted experiment goes on from there."""
    scale: Scale = "smoke"
    """smoke: seconds a cell, to see that it runs. cpu: about an hour a cell on two cores. paper: the paper's own."""
    cells: tuple[str, ...] = ()
    """Only these, such as "t1-128/*" or "*/joint"; none = all."""
    seeds: int | None = None
    """How many; None = 3 at cpu scale, else 1."""
    dry_run: bool = False
    """Print the plan with images, FLOPs and estimated time, and stop."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass
class Pack(Command):
    """Make a trained run small enough to hand on: float16 weights and codebooks, no logs."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    out: Annotated[Path, tyro.conf.Positional]
    """New folder."""
    codebook_level: int | None = None
    """Icosphere subdivisions of the packed codebook; None = the run's own."""


@dataclass
class Export(Command):
    """Write a trained run for machines without PyTorch: one ONNX file, whose poses are not refined, or a folder for
    codepose-runtime."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder, or "hammer"."""
    out: Annotated[Path, tyro.conf.Positional]
    """The file, such as part.onnx; or the folder, a name without a suffix."""


@dataclass
class Completion(Command):
    """Print the script with which a shell completes commands, options and files."""

    shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]
    """For bash: codepose completion bash > ~/.local/share/bash-completion/completions/codepose"""


_COUNTS = dict.fromkeys(("images", "max_detections", "max_frames", "seeds", "devices", "nodes"), MUCH) | {"count": 256}
"""Numbers of things, and the most there may be: a picture of scenes has to fit into memory."""


def require_usable(options: object) -> None:
    """Refuses numbers that count nothing, and picture files of unknown kinds, before anything is done.

    Raises:
        ConfigError: An option is one of these.
    """
    for name in ("min_score", "min_confidence", "nms", "difficulty"):
        value = getattr(options, name, 0.0)
        if value is not None and not 0.0 <= value <= 1.0:
            raise ConfigError(f"--{name.replace('_', '-')} is a share from 0 to 1, not {value:g}")
    distance = getattr(options, "distance", None)
    if distance is not None:
        require_distance(distance)
    if not math.isfinite(getattr(options, "min_judged", 0.0)):
        raise ConfigError("--min-judged is a number, such as 3")
    for name, most in _COUNTS.items():
        value = getattr(options, name, None)
        if value is not None and not 1 <= value <= most:
            raise ConfigError(f"--{name.replace('_', '-')} must be a number from 1 to {most:,}")
    if isinstance(options, Preview | MeshDoctor):
        from PIL import Image

        if Image.registered_extensions().get(options.out.suffix.lower()) not in Image.SAVE:  # some are only read
            raise ConfigError(f"--out {options.out}: give a picture's name, such as {options.out.stem}.png")
