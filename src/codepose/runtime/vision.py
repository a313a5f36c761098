"""What codepose takes from torchvision, imported without torch's compiler.

``torchvision.ops`` imports ``torch._dynamo`` for one function that only RoIAlign's fallback calls. The compiler and
SymPy come with it: a third of the time in which ``codepose predict`` used to start. Here that function imports the
compiler when it is called, if it ever is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

_COMPILER = "torch._dynamo.utils"


class _Later(ModuleType):
    """Stands for the compiler's module until something other than that function is asked of it."""

    @staticmethod
    def is_compile_supported(device_type: str) -> bool:
        """What torchvision imports."""
        return bool(import_module(_COMPILER).is_compile_supported(device_type))

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # the import system looks for some that no plain module has
            raise AttributeError(name)
        self.leave()
        return getattr(import_module(_COMPILER), name)

    def leave(self) -> None:
        """Makes room for the module itself."""
        if sys.modules.get(_COMPILER) is self:
            del sys.modules[_COMPILER]


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Lets ``from torch._dynamo.utils import is_compile_supported`` import no compiler."""
    later = _Later(_COMPILER)
    sys.modules.setdefault(_COMPILER, later)
    try:
        yield
    finally:
        later.leave()


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
