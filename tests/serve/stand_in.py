"""Takes the place of the command line in tests of the service: answers as it does, at once.

A file called broken is one that cannot be read, a huge one asks for two gigabytes, one called cm is too large in mm, a
slow one trains until it is stopped, a deaf one for ever, and a failing one fails.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

from PIL import Image


def draw(path: str | Path) -> None:
    Image.new("RGB", (4, 3)).save(path)


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else ""


def mesh(file: Path) -> None:
    if "broken" in file.name:
        sys.exit(f"codepose mesh: {file.resolve()}: it is damaged, or no PLY file; type --faces")
    if "huge" in file.name:
        bytearray(2**31)
    usable = "cm" not in file.name or option("--unit") == "cm"
    report = {"usable": usable, "unit": option("--unit"), "diameter_mm": 100.0, "findings": ["no colours"], "names": []}
    report |= {"size_mm": [60.0, 60.0, 50.0], "faces": 12, "looks_the_same_after": "none", "own_unit": False}
    Path(option("--report")).write_text(json.dumps(report))
    if not usable:
        sys.exit(f"codepose mesh: {file}: taken as mm the part is 9000 mm across")
    draw(option("--out"))
    Path(option("--save")).write_bytes(file.read_bytes())


def train(run: Path) -> None:
    print("part: 60 x 60 x 50 mm, 12 faces")
    if "failing" in run.name and "--resume" not in sys.argv:
        sys.exit(f"codepose train: {run / 'config.yaml'}: the disk is full")
    (run / "step1").mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text("")
    (run / "words.json").write_text(json.dumps(sys.argv[1:]))
    rows = [{"step": step, "mse": 1 / step} for step in range(1, 501)] + [{"step": 500, "val_mse": 0.01}]
    (run / "step1" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw(run / "step1" / "validation.png")
    if "deaf" in run.name:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("Step 1: extended AAE:  42%  mse 0.0619  10 images/s  left 1:23", flush=True)
    while ("slow" in run.name or "deaf" in run.name) and "--resume" not in sys.argv:
        time.sleep(0.02)
    (run / "step2").mkdir(exist_ok=True)
    (run / "step2" / "weights.safetensors").write_bytes(b"")
    print("codepose: nothing was detected", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    if sys.argv[1] == "mesh":
        mesh(Path(sys.argv[2]))
    elif sys.argv[1] == "preview":
        draw(option("--out"))
        Path("preview.json").write_text(json.dumps(sys.argv[1:]))
    else:
        train(Path(option("--out")))
