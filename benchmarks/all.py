"""Runs every benchmark; ``--quick`` shows within a minute that all of them work."""

from __future__ import annotations

from benchmarks import codebook, floor, inference, render, scaling, step1, step2, vsd
from benchmarks.timing import command

# faiss comes last: it brings an OpenMP of its own
BENCHMARKS = (render.run, vsd.run, step1.run, step2.run, inference.run, floor.run, scaling.run, codebook.run)

if __name__ == "__main__":
    command(*BENCHMARKS, description=__doc__)
