"""The files of codepose that the runner executes, too: copied when its wheel is built, with other imports.

There is one implementation of everything between an image and a pose. Here its files learn to do without PyTorch: what
they import from it comes from ``codepose_runtime.tensors``. What they import from codepose is listed here, too, or is
written for the runner under the same name: the rasteriser and the votes of edges are Warp's there and NumPy's here.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src" / "codepose"
PACKAGE = HERE / "src" / "codepose_runtime"
SHARED = {
    "": "geometry",
    "storage": "checksums locks replace",
    "settings": "crop distance errors",
    "runtime": "instructions nested",
    "rendering": "renderer shading",
    "parts": "symmetry_group",
    "cameras": "camera camera_entries depth_images photos",
    "synthesis": "lookalikes objects",
    "networks": "pose_judge windows",
    "refinement": (
        "contours edge_fit edge_lines edge_search edges judge judged_contours outline_colors poses render_and_compare "
        "wide_search"
    ),
    "estimation": (
        "answers box_poses codebook detection duplicates estimator evidence fitted_boxes hypotheses laid_poses "
        "likeliest nearest_codes photo support_plane window_boxes"
    ),
    "predict": "files output sources",
}
_IMPORTS = (
    (r"^import torch$", "from codepose_runtime import tensors as torch"),
    (r"^from torch\.nn import functional as F$", "from codepose_runtime.tensors import functional as F"),
    (r"^from torch import", "from codepose_runtime.tensors import"),
    (r"^from codepose\.runtime\.vision import", "from codepose_runtime.tensors.boxes import"),
    (r"^from kornia[\w.]* import", "from codepose_runtime.tensors.vision import"),
    (r"^(\s*from) codepose\b", r"\1 codepose_runtime"),
)


def files() -> list[Path]:
    """Returns the shared files, as places inside either package."""
    return [Path(room) / f"{name}.py" for room, names in SHARED.items() for name in names.split()]


def translated(text: str) -> str:
    """Returns a file's text with the runner's imports."""
    for found, new in _IMPORTS:
        text = re.sub(found, new, text, flags=re.MULTILINE)
    return text


def write(target: Path) -> list[Path]:
    """Writes the translated files below a folder; returns their places in it, those of packages' beginnings, too."""
    written = files()
    for place in written:
        path = target / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(translated((SOURCE / place).read_text(encoding="utf-8")), encoding="utf-8")
    for room in sorted({place.parent for place in written} - {Path()}):
        (target / room / "__init__.py").write_text("", encoding="utf-8")
        written.append(room / "__init__.py")
    return written


if __name__ == "__main__":
    print(f"{len(write(Path(sys.argv[1])))} files")
