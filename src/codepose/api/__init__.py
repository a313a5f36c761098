"""What the commands do, for Python: preview, train, calibrate, evaluate, export. What they check is checked here."""

from codepose.api.evaluation import Evaluation, calibrate, evaluate
from codepose.api.exporting import Exported, export
from codepose.api.training import train, train_stages
from codepose.estimation.methods import trained_methods
from codepose.reports.preview import preview

__all__ = [
    "Evaluation",
    "Exported",
    "calibrate",
    "evaluate",
    "export",
    "preview",
    "train",
    "train_stages",
    "trained_methods",
]
