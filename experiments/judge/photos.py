"""The judge alone on photographs with known poses: true boxes, views from everywhere, no network of the part.

`python -m experiments.judge.photos --weights FILE --real FOLDER --dataset sygrid:7 --out FILE.json`
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from codepose import geometry
from codepose.bop.dataset import MIN_VISIBLE, BopDataset
from codepose.bop.scenes import BopImage, BopInstance
from codepose.evaluation.equivalent_poses import pose_errors
from codepose.networks.pose_judge import PoseJudge
from codepose.refinement.judge import JudgeRefiner
from codepose.refinement.judge_weights import load_network
from codepose.refinement.poses import Poses, Seen
from codepose.refinement.render_and_compare import ContourRefiner
from codepose.settings.data import ObjectSettings
from codepose.settings.files import load_preset
from codepose.synthesis.world import World

ROUNDS = (48, 16, 8, 4)


def main() -> None:
    """Prints a line an instance and the shares that are right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--dataset", nargs="+", default=["sygrid:7"])
    parser.add_argument("--level", type=int, default=1)
    parser.add_argument("--in-plane", type=int, default=12)
    parser.add_argument("--most", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    network = load_network(torch.device("cpu"), args.weights)
    every = []
    for name in args.dataset:
        folder, number = name.split(":")
        rows = judged(network, args.real / folder, int(number), args)
        every += [{"part": name, **row} for row in rows]
        summary(name, rows)
    if len(args.dataset) > 1:
        summary("all", every)
    if args.out:
        args.out.write_text(json.dumps(every, indent=1))


def summary(name: str, rows: list[dict[str, float]]) -> None:
    """Prints shares of instances."""

    def share(key: str, below: float) -> float:
        return sum(r[key] < below for r in rows) / len(rows)

    print(
        f"{name}: {len(rows)} | mssd<0.1 {share('mssd', 0.1):.2f} <0.2 {share('mssd', 0.2):.2f} | mspd<20 "
        f"{share('mspd', 20.0):.2f} | rotation<15 {share('rotation', 15.0):.2f} <30 {share('rotation', 30.0):.2f} | "
        f"with edges <0.1 {share('edges_mssd', 0.1):.2f} <0.2 {share('edges_mssd', 0.2):.2f}, "
        f"chosen <0.1 {share('chosen_mssd', 0.1):.2f} <0.2 {share('chosen_mssd', 0.2):.2f} "
        f"mspd<20 {share('chosen_mspd', 20.0):.2f} | "
        f"from truth: mssd<0.2 {share('truth_mssd', 0.2):.2f}, <0.1 {share('truth_mssd', 0.1):.2f}, "
        f"truth's score better {sum(r['truth_score'] > r['score'] + 0.02 for r in rows) / len(rows):.2f} | "
        f"{sum(r['seconds'] for r in rows) / len(rows):.1f} s",
        flush=True,
    )


def judged(network: PoseJudge, folder: Path, number: int, args: argparse.Namespace) -> list[dict[str, float]]:
    """Poses of all instances of an object in a BOP folder."""
    dataset = BopDataset.open(folder)
    info = folder / "models" / "models_info.json"
    part = ObjectSettings(mesh=str(dataset.models[number].path), symmetries=str(info))
    judge = JudgeRefiner(World(load_preset("quick").model_copy(update={"objects": (part,)})), network, ROUNDS)
    views = geometry.turned_views(geometry.view_sphere(args.level), args.in_plane)
    rows: list[dict[str, float]] = []
    split = dataset.splits()[0]
    for scene_id in dataset.scene_ids(split):
        scene = dataset.scene(split, scene_id)
        for im_id in scene.im_ids:
            image = scene.image(im_id)
            pixels = torch.from_numpy(image.rgb().copy()).permute(2, 0, 1)[None].float() / 255.0
            for instance in image.instances or ():
                if instance.obj_id == number and instance.visible_fraction >= MIN_VISIBLE and len(rows) < args.most:
                    rows.append({"image": im_id, **_row(judge, views, image, pixels, instance)})
    return rows


def _row(
    judge: JudgeRefiner, views: Tensor, image: BopImage, pixels: Tensor, instance: BopInstance
) -> dict[str, float]:
    model = judge.world.objects[0]
    start, zero = time.monotonic(), torch.zeros(1, dtype=torch.long)
    K = geometry.from_opencv(torch.from_numpy(image.K).float())
    R = torch.from_numpy(instance.R_cam_obj).float()[None]
    t = torch.from_numpy(instance.t_cam_obj).float()[None] + (R @ model.offset.float()[:, None]).squeeze(-1)
    box = judge.world.boxes(zero, R, t, K)
    extent = torch.tensor([pixels.shape[3], pixels.shape[2]])
    seen = Seen(pixels, zero, box, zero, K, pixels[..., :64, :64], extent)
    far = geometry.from_pixels(geometry.box_center(box), t[:, 2], K).expand(len(views), 3)
    hull = torch.from_numpy(model.mesh.hull)
    guess = geometry.fit_translation(hull, views, box.expand(len(views), 4), K, far, steps=10)
    found = judge(seen, Poses.start(views[None], guess[None], torch.zeros(1, len(views))))
    few, found = found, found.best(1)
    seconds = time.monotonic() - start
    truth = Poses.start(geometry.offaxis_rotation(t).mT @ R[None], t[None], torch.zeros(1, 1))
    kept = JudgeRefiner(judge.world, judge.network, (1, 1, 1))(seen, truth)
    edges = ContourRefiner(judge.world, judge.world.settings.refinement)(seen, few)
    fine = replace(edges, score=judge.scores(seen, edges))
    chosen = few.joined(fine).best(1)
    both = found.joined(kept).joined(edges).joined(chosen)
    errors = pose_errors([model], zero.expand(4), both.R[0], both.t[0], R.expand(4, 3, 3), t.expand(4, 3), K)
    return {
        "index": instance.index,
        "visible": instance.visible_fraction,
        "mssd": float(errors.mssd_share[0]),
        "mspd": float(errors.mspd_px[0]),
        "rotation": float(errors.rotation_deg[0]),
        "score": float(found.score[0, 0]),
        "edges_mssd": float(errors.mssd_share[2]),
        "chosen_mssd": float(errors.mssd_share[3]),
        "chosen_mspd": float(errors.mspd_px[3]),
        "truth_score": float(judge.scores(seen, truth)[0, 0]),
        "truth_mssd": float(errors.mssd_share[1]),
        "truth_rotation": float(errors.rotation_deg[1]),
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
