"""What the judge is worth on a run's own renderings: refined with and without it, on the same validation scenes.

`python -m experiments.judge.renderings RUN --images 32 --judged 0 16 32 --edge-views 0`
"""

from __future__ import annotations

import argparse
from pathlib import Path

from codepose.estimation import hypotheses
from codepose.estimation.codebook import Codebook
from codepose.estimation.estimator import PoseEstimator
from codepose.estimation.methods import load_codebooks, load_pipeline
from codepose.estimation.pipelines import Pipeline
from codepose.evaluation.benchmark import evaluate
from codepose.refinement.judged_contours import refiner_of
from codepose.runtime.run import Run
from codepose.settings.schema import Settings
from codepose.synthesis.world import World


def main() -> None:
    """Prints a line for each number of poses judged, by the estimator's own boxes and by the true ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--judged", type=int, nargs="+", default=[0, 32])
    parser.add_argument("--edge-views", type=int, default=16)
    args = parser.parse_args()
    hypotheses.EDGE_VIEWS = args.edge_views
    run = Run.open(args.run)
    world = World(run.settings)
    pipeline = load_pipeline(run, "joint", world.device)
    books = load_codebooks(run, "joint", pipeline, world)
    estimators = {}
    for judged in args.judged:
        refinement = run.settings.refinement.model_copy(update={"judged": judged})
        settings = run.settings.model_copy(update={"refinement": refinement})
        estimators[f"judged {judged}"] = _estimator(pipeline, settings, books, world)
    methods = evaluate(world, estimators, images=args.images, split="val").summary()["methods"]
    for name, row in methods.items():
        took = "" if row["ms_per_image"] is None else f", {row['ms_per_image']:.0f} ms an image"
        print(f"{name}: {row['auc_fraction']:.3f} of the largest AUC{took}")


def _estimator(pipeline: Pipeline, settings: Settings, books: list[Codebook], world: World) -> PoseEstimator:
    estimator = PoseEstimator(pipeline, books, refiner_of(world, settings.refinement), world=world)
    estimator.settings = settings
    return estimator


if __name__ == "__main__":
    main()
