"""Trains the judge: `python -m experiments.judge --parts FILE --textures FOLDER --out FOLDER --minutes 8`."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from codepose.networks.pose_judge import PoseJudge
from codepose.storage.replace import replacing
from experiments.judge.hypotheses import loss, propose
from experiments.judge.parts import Parts
from experiments.judge.scenes import Photographer

_WEIGHTS = "judge.safetensors"


def load_textures(folder: Path, side: int = 384) -> Tensor:
    """Returns the pictures of a folder, (T, 3, side, side) in [0, 1]."""
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".png"))
    pictures = [np.array(Image.open(p).convert("RGB").resize((side, side), Image.Resampling.BOX)) for p in files]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255.0


def save(network: PoseJudge, path: Path) -> None:
    """Writes the weights in half precision."""
    state = {
        name: (value.detach().half() if value.is_floating_point() else value).cpu().contiguous()
        for name, value in network.state_dict().items()
    }
    with replacing(path) as part:
        save_file(state, part)


def train(parts: Parts, textures: Tensor, args: argparse.Namespace) -> None:
    """Trains for a number of minutes with a schedule that ends with them."""
    device = parts.device
    on_gpu = device.type == "cuda"
    network = PoseJudge().to(device).to(memory_format=torch.channels_last)
    if args.init:
        network.load_state_dict({k: v.float() for k, v in load_file(args.init).items()}, strict=True)
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), fused=on_gpu)
    camera = Photographer(parts, textures)
    start, seconds, step, seen = time.monotonic(), args.minutes * 60.0, 0, 0
    shown = saved = start
    recent: list[dict[str, Tensor]] = []
    while (now := time.monotonic()) - start < seconds:
        share = (now - start) / seconds
        rate = args.lr * min(1.0, (step + 1) / args.warmup) * (0.5 + 0.5 * np.cos(np.pi * share) + 1e-3)
        for group in optimizer.param_groups:
            group["lr"] = rate
        scenes = camera.shoot(args.scenes)
        tried = propose(parts, scenes, args.hypotheses, args.look_alikes)
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu or args.bf16):
            verdict = network(scenes.photos[tried.crop], tried.renders)
        terms = loss(parts, scenes, tried, verdict)
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        step, seen = step + 1, seen + len(tried.crop)
        recent.append({name: value.detach() for name, value in terms.items()})
        if now - shown > args.log_every:
            means = {name: round(float(torch.stack([r[name] for r in recent]).mean()), 4) for name in recent[0]}
            line = {"step": step, "seconds": round(now - start), "samples": seen, "lr": round(rate, 6), **means}
            print(json.dumps(line), flush=True)
            with (args.out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            recent, shown = [], now
        if now - saved > args.save_every:
            save(network, args.out / _WEIGHTS)
            saved = now
    save(network, args.out / _WEIGHTS)
    print(f"{step} steps, {seen} pairs, {seen / (time.monotonic() - start):.0f} a second", flush=True)


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=Path, required=True, help="archive of experiments.parts")
    parser.add_argument("--textures", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--init", type=Path, help="weights to begin at")
    parser.add_argument("--scenes", type=int, default=384)
    parser.add_argument("--hypotheses", type=int, default=6)
    parser.add_argument("--look-alikes", type=int, default=0, help="wrong poses that look right, for each crop")
    parser.add_argument("--bf16", action="store_true", help="multiply in bf16 on a CPU, too")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--log-every", type=float, default=15.0)
    parser.add_argument("--save-every", type=float, default=60.0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    start = time.monotonic()
    parts = Parts.load(args.parts, torch.device(args.device))
    print(f"{len(parts.points)} parts in {time.monotonic() - start:.0f} s", flush=True)
    textures = load_textures(args.textures).to(args.device)
    train(parts, textures, args)


if __name__ == "__main__":
    main()
