"""What codepose takes from torchvision, imported without torch's compiler.

``torchvision.ops`` imports ``torch._dynamo`` for one function that only RoIAlign's fallback calls. The compiler and
SymPy come with it: a third of the time in which ``codepose predict`` used to start. Here that function imports the
compiler when it is called, if it ever is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_COMPILER = "torch._dynamo.utils"


def _is_compile_supported(device_type: str) -> bool:
    """What torchvision asks the compiler."""
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device_type))


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Lets ``from torch._dynamo.utils import is_compile_supported`` find the function above."""
    if _COMPILER in sys.modules:
        yield
        return
    stand_in = ModuleType(_COMPILER)
    stand_in.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    sys.modules[_COMPILER] = stand_in
    try:
        yield
    finally:
        del sys.modules[_COMPILER]


with _without_compiler():
    import torchvision
    from torchvision.models import VGG16_Weights
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.rpn import RPNHead
    from torchvision.ops import batched_nms, box_area, box_iou, clip_boxes_to_image, nms, roi_align

TORCHVISION = str(torchvision.__version__)
"""Its version."""

__all__ = [
    "TORCHVISION",
    "AnchorGenerator",
    "FastRCNNPredictor",
    "RPNHead",
    "TwoMLPHead",
    "VGG16_Weights",
    "batched_nms",
    "box_area",
    "box_iou",
    "clip_boxes_to_image",
    "nms",
    "roi_align",
]
