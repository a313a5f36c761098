"""The pictures of a run's report: training data, reconstructions, Figs. 3 and 4 of the paper, overlays, curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codepose import geometry
from codepose.estimation.confidence import CORRECT
from codepose.evaluation.benchmark import settings_note
from codepose.evaluation.metrics import (
    MSSD_THRESHOLDS_PERCENT,
    ROTATION_THRESHOLDS_DEG,
    VISIBLE_EDGES,
    VISIBLE_WORDS,
    by_visibility,
)
from codepose.evaluation.results import Example, Results
from codepose.parts.inspection import symmetry_words
from codepose.parts.symmetry_group import Symmetries
from codepose.reports import draw, plots
from codepose.reports.html_page import Section, Table, method_table, write_report
from codepose.runtime.run import Run
from codepose.storage.replace import write_atomically
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World

_SHEET = 8
_REFINED, _TRUE_BOX = " + refinement", " + GT box"
_ROWS = (
    "Rows with refinement are what codepose predict does; the others are the paper's comparison. GT box: poses in true "
    "boxes, a method's upper bound. Oracle: the nearest view of the codebook."
)
_STAGE_KEYS = {
    "step1": ("mse", "val_mse", "val_object_mse", "val_black_mse"),
    "step2": ("mse", "head_box", "rpn_box", "fed_back_iou", "val_mean_iou"),
    "detector": ("head_box", "rpn_box", "val_mean_iou"),
    "original": ("mse", "val_mse", "val_object_mse"),
}


def write_run_report(run: Run, world: World, results: Results, summary: Mapping[str, Any], path: Path) -> Path:
    """Writes a run's self-contained report.html and, beside results.json, its pictures as PNG files.

    Args:
        run: Trained; its log is drawn, and its evaluation's folder gets the pictures.
        world: Of its settings.
        results: Of the evaluation, with examples.
        summary: The content of results.json.
        path: The page's.

    Returns:
        ``path``.
    """
    folder = run.stage("evaluation")
    summary = _refined_first(summary)
    sections = [
        *_numbers(results, summary),
        _symmetric(summary),
        *_by_object(summary),
        _figure3(results),
        _figure4(results),
        *_confidence(results),
        *_overlays(results, world),
        _reconstructions(results),
        _training_data(world),
        _curves(run),
    ]
    for section in sections:
        for k, (_, png) in enumerate(section.pictures):
            name = section.title.lower().split(":")[0].replace(" ", "-")
            write_atomically(folder / f"{name}-{k + 1}.png", png)
    parts = ", ".join(results.labels)
    return write_report(path, title=f"codepose: {parts}", summary=headline(summary), sections=sections)


def _refined_first(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary in which the rows that users get come first: those with refinement."""

    def ordered(rows: Mapping[str, Any]) -> dict[str, Any]:
        return dict(sorted(rows.items(), key=lambda row: _REFINED not in row[0] or _TRUE_BOX in row[0]))

    objects = {label: ordered(rows) for label, rows in summary.get("objects", {}).items()}
    return {**summary, "methods": ordered(summary["methods"])} | ({"objects": objects} if objects else {})


def headline(summary: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tiles at the top of the page: the joint network's refined poses, as users get them.

    Without any, its plain ones; without a joint network, the first method's.

    Args:
        summary: The content of results.json.
    """
    methods = summary["methods"]
    shown = next(filter(methods.__contains__, (f"joint{_REFINED}", "joint")), next(iter(methods)))
    row, translation = methods[shown], methods[shown]["translation_median_mm"]
    return {
        "Poses of": shown,
        "Within 10 % of the diameter": f"{row['mssd_recall_10']:.0%}",
        "Median rotation error": f"{row['rotation_median_deg']:.1f}°",
        "Median translation error": "n/a" if translation is None else f"{translation:.0f} mm",
        "AUC fraction": f"{row['auc_fraction']:.3f}",
        "Mean IoU of boxes": f"{row['mean_iou']:.2f}",
        "Held-out scenes": str(summary["images"]),
    }


def _numbers(results: Results, summary: Mapping[str, Any]) -> list[Section]:
    methods = summary["methods"]
    keys = ["rotation", "translation", "tlinear", "10", "20", "50"]
    headers = ["Method", "GT translation", "GT rotation", "tlinear", "τ 10 %", "τ 20 %", "τ 50 %", "AR_VSD"]
    rows = [[n, *(f"{m[f'auc_fraction_{k}']:.3f}" for k in keys), f"{m['ar_vsd']:.3f}"] for n, m in methods.items()]
    visible = np.clip(np.asarray(results.visible_fraction), 0.0, 1.0)
    lines = []
    for name, row in results.methods.items():
        bins = by_visibility(1.0 - np.nan_to_num(row.array("vsd"), nan=1.0), visible, VISIBLE_EDGES)
        lines.append([name, *("–" if b.mean is None else f"{b.mean:.3f}" for b in bins)])
    counts = [b.count for b in by_visibility(visible, visible, VISIBLE_EDGES)]
    columns = ["Method", *(f"{w} ({n} scenes)" for w, n in zip(VISIBLE_WORDS, counts, strict=True))]
    return [
        Section("Results", f"{summary_text(summary)}\n\n{_ROWS}", table=method_table(methods)),
        Section(
            "Which half fails: AUC fraction under other readings of VSD",
            "GT translation leaves the rotation alone to be judged, GT rotation the translation; τ is absolute (20 mm) "
            "or a share of the diameter; AR_VSD is BOP19's.",
            table=Table(headers, rows),
        ),
        Section("By visibility: AUC fraction", "Share of the silhouette that is visible.", table=Table(columns, lines)),
    ]


def _symmetric(summary: Mapping[str, Any]) -> Section:
    """Errors that know after which turns a part looks the same."""
    columns = {f"MSSD < {p} %": f"mssd_recall_{p}" for p in MSSD_THRESHOLDS_PERCENT}
    columns |= {f"rotation < {d}°": f"rotation_recall_{d}" for d in ROTATION_THRESHOLDS_DEG}
    rows = [[n, *(f"{m[key]:.3f}" for key in columns.values())] for n, m in summary["methods"].items()]
    groups = {label: symmetry_words(Symmetries.from_bop(entry)) for label, entry in summary["symmetries"].items()}
    known = "; ".join(f"{label}: looks the same after {words}" for label, words in groups.items())
    text = (
        "Share of the scenes. MSSD: how far the worst point of the surface is from its place, as a share of the "
        f"diameter. {known or 'No part looks the same after any turn'}. A pose that looks like the true one counts as "
        "true, in rotation and translation errors, too."
    )
    return Section("How far off: errors that know symmetries", text, table=Table(("Method", *columns), rows))


def _by_object(summary: Mapping[str, Any]) -> list[Section]:
    """One table an object, where there are several."""
    sections = []
    for label, rows in summary.get("objects", {}).items():
        methods = {name: row for name, row in rows.items() if name != "images"}
        text = f"{rows['images']} of the scenes."
        sections.append(Section(f"Object: {label}", text, table=method_table(methods)))
    return sections


def summary_text(summary: Mapping[str, Any]) -> str:
    """Returns what a reader must know to believe the numbers."""
    return (
        f"{summary['images']} scenes of the {summary['split']} split, preset {summary['preset']}, seed "
        f"{summary['seed']}, initial weights: {summary['weights']}, backgrounds: {summary['backgrounds']}; "
        f"{summary['hardware']}, {summary['date']}."
    )


def _figure3(results: Results) -> Section:
    curves = {n: np.nan_to_num(r.array("vsd"), nan=1.0) for n, r in results.methods.items() if "GT" not in n}
    figure = plots.figure3(curves, title="Full pose")
    rotation = {n: np.nan_to_num(r.array("vsd_rotation"), nan=1.0) for n, r in results.methods.items() if "GT" not in n}
    second = plots.figure3(rotation, title="Rotation only (true translation)")
    return Section(
        "Figure 3: correct poses against the VSD threshold",
        "The number of images whose VSD lies below the threshold; the area under each curve is the sum of 1 − VSD.",
        [("Full pose", draw.to_png(figure)), ("Rotation only", draw.to_png(second))],
    )


def _confidence(results: Results) -> list[Section]:
    """How far the confidence may be believed, where a method has one."""
    claimed, right = {}, {}
    for name, row in results.methods.items():
        confidence = row.array("confidence")
        known = np.isfinite(confidence)
        if known.any():
            claimed[name], right[name] = confidence[known], row.array("mssd_share")[known] < CORRECT
    if not claimed:
        return []
    text = (
        f"A pose is right if no point of the part is off by more than {CORRECT:.0%} of its diameter. Calibrated on the "
        "validation split, drawn here on these scenes; a larger dot stands for more of them."
    )
    return [
        Section("Confidence: said and so", text, [("Reliability", draw.to_png(plots.reliability_plot(claimed, right)))])
    ]


def _figure4(results: Results) -> Section:
    examples = results.examples[:4]
    names = _own_networks(results)
    boxes = np.full((len(names), len(examples), 4), np.nan)
    ious = np.full((len(names), len(examples)), np.nan)
    for m, name in enumerate(names):
        for i, example in enumerate(examples):
            if name in example.detections:
                boxes[m, i] = example.detections[name].box
                ious[m, i] = results.methods[name].iou[i]
    picture = draw.detections(
        torch.from_numpy(np.stack([e.image for e in examples])).permute(0, 3, 1, 2) / 255.0,
        np.stack([e.gt_box for e in examples]),
        boxes,
        ious,
        [f"scene {i}" for i in range(len(examples))],
        names,
    )
    means = ", ".join(f"{n} {np.nan_to_num(results.methods[n].array('iou')).mean():.3f}" for n in names)
    return Section(
        "Figure 4: detections", f"Mean IoU over all scenes: {means}.", [("Detections", draw.to_png(picture))]
    )


def _own_networks(results: Results) -> list[str]:
    """The methods with their own boxes; refinement and depth change neither these nor reconstructions."""
    return [n for n in results.methods if "+" not in n and n != "oracle"]


def _overlays(results: Results, world: World) -> list[Section]:
    name = next(iter(results.methods))
    if any(f"{name} + refinement" in e.detections for e in results.examples):
        name = f"{name} + refinement"
    drawn = [draw_example(e, name, world) for e in results.examples if name in e.detections]
    if not drawn:
        return []
    pictures = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255.0
    grid = draw.contact_sheet([("", row) for row in torch.split(pictures, 3)], columns=3)
    text = (
        "The contour of the model at the estimated pose, its axes, the detected box, and the network's reconstruction."
    )
    return [Section("Poses: estimated on held-out scenes", text, [(name, draw.to_png(grid))])]


def draw_example(example: Example, name: str, world: World) -> draw.Picture:
    """Draws one method's detection over an example scene."""
    detection, model = example.detections[name], world.objects[example.object_index]
    zoom = max(1, 512 // example.image.shape[0])
    K = geometry.scaled_camera(geometry.from_opencv(torch.from_numpy(example.K).float()), zoom)
    image = example.image.repeat(zoom, 0).repeat(zoom, 1)
    t = detection.to_camera(model.offset.double().cpu().numpy())
    index = torch.tensor([example.object_index], device=world.device)
    R_there, t_there = (torch.from_numpy(x).float()[None].to(world.device) for x in (detection.R_cam_obj, t))
    size = (image.shape[0], image.shape[1])
    depth = world.renderer.depth_alone(index, R_there, t_there, K.to(world.device), size)
    reconstruction = detection.reconstruction
    return draw.overlay(
        image,
        K,
        detection.R_cam_obj,
        t,
        (depth[0] > 0).cpu(),
        detection.box * zoom,
        0.3 * model.mesh.diameter,
        inset=None if reconstruction is None else torch.from_numpy(reconstruction),
    )


def _reconstructions(results: Results) -> Section:
    examples = results.examples[:_SHEET]
    rows: list[tuple[str, Tensor]] = [("target", torch.stack([e.target for e in examples]))]
    for name in _own_networks(results):
        reconstructions = [_reconstruction(e, name) for e in examples]
        rows.append((name, torch.stack(reconstructions)))
    sheet = draw.contact_sheet(rows, columns=len(examples), scale=max(1, 128 // rows[0][1].shape[-1]))
    text = "What each network makes of the detected, occluded object, under the clean view it should have made."
    return Section("Reconstructions", text, [("Reconstructions", draw.to_png(sheet))])


def _reconstruction(example: Example, name: str) -> Tensor:
    """A method's reconstruction (3, c, c); black where nothing was detected."""
    detection = example.detections.get(name)
    if detection is None or detection.reconstruction is None:
        return torch.zeros_like(example.target)
    return torch.from_numpy(detection.reconstruction)


def _training_data(world: World) -> Section:
    with torch.no_grad():
        crops = SceneSource(world, "train").crops(torch.arange(_SHEET))
    rows = [("input", crops.inputs.cpu()), ("target", crops.targets.cpu())]
    sheet = draw.contact_sheet(rows, columns=_SHEET, scale=max(1, 128 // crops.inputs.shape[-1]))
    return Section("Training data", "Step 1's inputs and targets.", [("Contact sheet", draw.to_png(sheet))])


def _curves(run: Run) -> Section:
    pictures = []
    for stage, keys in _STAGE_KEYS.items():
        records = list(run.metrics(stage))
        present = [k for k in keys if any(k in r for r in records)]
        if present:
            pictures.append((stage, draw.to_png(plots.learning_curves(records, present))))
    return Section("Training", settings_note(run.settings), pictures)
