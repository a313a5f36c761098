"""Search in the paper's codebook against faiss' flat inner product and against reading the codebook once."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.subjects import PAPER_VIEWS, build_world, chosen, random_codebook
from benchmarks.timing import Case, Contestant, Options, Report, command, interleaved
from codepose.estimation.pipelines import JointPipeline
from codepose.networks.build import build_joint

_LATENT = 128


def run(options: Options) -> Report:
    """Times 1, 8 and 64 queries for the best view, and one for the 64 best, as refinement asks for."""
    report = Report("codebook")
    views = 2_000 if options.quick else PAPER_VIEWS
    settings = chosen("quick", options)
    pipeline = JointPipeline(build_joint(settings), settings, options.place)
    book = random_codebook(pipeline, build_world(settings, options), views, _LATENT)
    indices = _faiss_indices(book.codes, options, report)
    # the values' bits, eight bytes at a time: the sum itself costs next to nothing
    words = book.codes.view(torch.int64)
    size = words.numel() * 8 / 1e9
    for queries, k in ((1, 1), (8, 1), (64, 1), (1, 64)):
        generator = torch.Generator().manual_seed(1)
        latents = torch.randn(queries, _LATENT, generator=generator).to(options.place)
        asked = F.normalize(latents, dim=1).cpu().numpy()
        contestants = [Contestant("codepose, float16", partial(book.search, latents, k), queries)]
        facts: dict[str, float | str] = {}
        found = book.search(latents, k)[1][:, 0].cpu()
        for name, index in indices.items():
            contestants.append(Contestant(name, partial(index.search, asked, k), queries))
            theirs = torch.from_numpy(index.search(asked, k)[1][:, 0])
            facts[f"same best view as {name}"] = f"{float((found == theirs).float().mean()):.0%}"
        # as if each query were answered by one reading: its ratio is that of the times
        contestants.append(Contestant("reading the codebook once", partial(torch.sum, words), queries))
        timings = interleaved(contestants, options)
        facts["reading, GB/s"] = timings[-1].rate.median / queries * size
        facts["ours, ms"] = queries / timings[0].rate.median * 1e3
        name = f"{queries} quer{'ies' if queries > 1 else 'y'}, k = {k}, in {views:,} × {_LATENT}"
        report.cases.append(Case(name, "queries/s", timings, facts=facts))
    return report


def _faiss_indices(codes: torch.Tensor, options: Options, report: Report) -> dict[str, Any]:
    """Returns faiss' exact indices: float32 storage, twice ours, and float16."""
    try:
        import faiss
    except ImportError as error:
        report.skipped.append(f"faiss: {error}")
        return {}
    faiss.omp_set_num_threads(options.cores)
    width = codes.shape[1]
    half = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    indices = {"faiss-cpu flat, float32": faiss.IndexFlatIP(width), "faiss-cpu, float16": half}
    values = codes.float().cpu().numpy()
    half.train(values)
    for index in indices.values():
        index.add(values)
    return indices


if __name__ == "__main__":
    command(run, description=__doc__)
