"""The codebook and its search on codes, boxes and weights small enough to check by hand."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from codepose import geometry
from codepose.estimation import nearest_codes
from codepose.estimation.codebook import Codebook, CodebookError, add_weights, fingerprint
from codepose.estimation.nearest_codes import RoundedCodes, nearest_in_chunks
from codepose.runtime.checkpoint import load_state, save_state
from codepose.settings.data import ObjectSettings
from codepose.settings.files import override
from codepose.settings.schema import Settings

K = torch.tensor([[100.0, 0.0, 50.0], [0.0, 200.0, 40.0], [0.0, 0.0, 1.0]])
CUBE = torch.tensor([[x, y, z] for x in (-50.0, 50.0) for y in (-50.0, 50.0) for z in (-50.0, 50.0)])
TENSORS = ("codes", "thumbnails", "rotations", "boxes", "K", "hull", "offset")


def small_book() -> Codebook:
    """Four views, of four codes at right angles, a cube's; the boxes are 20 x 40 pixels at 500 mm."""
    turns = geometry.view_rotation(torch.tensor([[0.0, 0.0, 1.0]]).expand(4, 3), torch.arange(4) * math.pi / 2)
    boxes = torch.tensor(
        [[40.0, 20.0, 60.0, 60.0], [50.0, 20.0, 70.0, 60.0], [0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 9.0]]
    )
    rest = {"z_ref": 500.0, "K": K, "hull": CUBE, "offset": torch.zeros(3), "fingerprint": "f"}
    return Codebook("cube", torch.eye(4).half(), torch.eye(4, 64).half(), turns, boxes, **rest)  # type: ignore[arg-type]


# the search


def test_similarities_are_cosines_best_first() -> None:
    book = small_book()
    values, views = book.search(torch.tensor([[0.0, 3.0, 4.0, 0.0], [-2.0, 0.0, 0.0, 0.0]]), 2)
    torch.testing.assert_close(values[0], torch.tensor([0.8, 0.6]), atol=1e-6, rtol=0)
    assert views[0].tolist() == [2, 1]
    assert values[1].tolist() == [0.0, 0.0]
    assert book.search(torch.rand(3, 4))[1].shape == (3, 1)
    assert book.search(torch.rand(3, 4), 4)[1].sort(1).values.tolist() == [[0, 1, 2, 3]] * 3
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"^k must lie in 1 ... 4, the number of views, not be {k}$"):
            book.search(torch.rand(1, 4), k)


@pytest.mark.parametrize("fast", [True, False])
def test_only_a_processor_that_multiplies_bytes_keeps_them(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codepose.estimation.codebook.multiplies_bytes", lambda: fast)
    book = small_book()
    book.search(torch.rand(1, 4))
    assert ("_rounded" in vars(book)) == fast


def test_who_multiplies_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    found: dict[str, bool] = {}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert nearest_codes.multiplies_bytes() is False
    found["avx512_vnni"] = False
    assert nearest_codes.multiplies_bytes() is False
    found["avx512_vnni"] = True
    assert nearest_codes.multiplies_bytes() is True
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        with monkeypatch.context() as asked:
            asked.setenv(name, "AVX2")
            assert nearest_codes.multiplies_bytes() is False


class Codes:
    """Codes that know what is read of them."""

    def __init__(self, values: Tensor) -> None:
        self.values, self.shape, self.device, self.read = values, values.shape, values.device, []
        self.read: list[Any]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, which: Any) -> Tensor:
        self.read.append(which)
        return self.values[which]


def test_codes_in_eight_bits_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of (0.5, -0.25) at 1/254: 127 and -63.5, which is rounded to -64 and loses 0.5/254."""
    codes = torch.tensor([[0.5, -0.25], [0.25, 0.125], [0.0, 0.0]]).half()
    for together in (1, 2, 1 << 20):
        monkeypatch.setattr(nearest_codes, "_CHUNK", together)
        book = RoundedCodes.of(codes)
        assert book.codes is codes
        assert book.scale == pytest.approx(1 / 254)
        assert book.values.dtype == torch.int8
        assert book.values.tolist() == [[127, -64], [64, 32], [0, 0]]
        # (63.5, 31.75) are rounded to (64, 32), the most of all: 0.5 and 0.25
        assert book.error == pytest.approx(math.hypot(0.5, 0.25) / 254, rel=1e-4)
        assert book.length == pytest.approx(math.hypot(0.5, 0.25))
    nothing = RoundedCodes.of(torch.zeros(2, 3).half())
    assert nothing.scale == 1e-12
    assert nothing.values.tolist() == [[0, 0, 0]] * 2


@pytest.mark.usefixtures("exact_bytes")
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("together", [1, 4, 64])
def test_only_codes_that_may_be_nearest_are_compared_exactly(
    k: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those whose rounded product is at most twice the bound below the k-th best one's."""
    torch.manual_seed(0)
    codes = torch.nn.functional.normalize(torch.randn(600, 8), dim=1).half()
    queries = torch.nn.functional.normalize(torch.randn(9, 8), dim=1)
    book = RoundedCodes.of(codes)
    seen = Codes(codes)
    monkeypatch.setattr(nearest_codes, "_TOGETHER", together)
    found = RoundedCodes(seen, book.values, book.scale, book.error, book.length).nearest(queries, k)  # type: ignore[arg-type]
    brute = (queries @ codes.float().T).topk(k, dim=1)
    assert torch.equal(found[1], brute.indices)
    torch.testing.assert_close(found[0], brute.values, atol=2e-6, rtol=0)
    assert len(seen.read) == len(queries)
    for query, read in zip(queries.double(), seen.read, strict=True):
        scale = float(query.abs().max()) / 127
        rounded = (query / scale).round()
        lost = float((query - rounded * scale).norm())
        products = book.values.double() @ rounded * book.scale * scale
        bound = book.error * float((rounded * scale).norm()) + book.length * lost
        best = float(products.topk(k).values[-1])
        surely = (products >= best - 2 * bound).nonzero()[:, 0]
        perhaps = (products >= best - 2 * (1.02 * bound + 2e-5) - book.scale * scale).nonzero()[:, 0]
        assert set(surely.tolist()) <= set(read.tolist()) <= set(perhaps.tolist())
        assert len(read) < 60


def test_queries_of_nothing_are_compared_with_everything() -> None:
    book = RoundedCodes.of(torch.eye(4).half())
    values, indices = book.nearest(torch.zeros(1, 4), 2)
    assert values.tolist() == [[0.0, 0.0]]
    assert len(set(indices[0].tolist())) == 2


@pytest.mark.parametrize(
    ("device", "rows"), [("cpu", [(0, 2), (2, 4), (4, 6)]), ("meta", [(0, 5), (5, 10)])]
)  # of four values each
def test_as_many_codes_at_a_time_as_suit_the_device(
    device: str, rows: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest_codes, "_CHUNK", 9)
    monkeypatch.setattr(nearest_codes, "_GPU_CHUNK", 20)
    codes = Codes(torch.eye(6, 4, device=device).half())
    nearest_in_chunks(codes, torch.eye(1, 4, device=device), 1)  # type: ignore[arg-type]
    assert [(s.start, s.stop) for s in codes.read] == rows
    wide = Codes(torch.eye(2, 50, device=device).half())
    nearest_in_chunks(wide, torch.eye(1, 50, device=device), 1)  # type: ignore[arg-type]
    assert [(s.start, s.stop) for s in wide.read] == [(0, 1), (1, 2)]


def test_the_best_of_all_chunks() -> None:
    codes = torch.tensor([[0.1], [0.9], [0.5], [0.7], [0.3]]).half()
    values, indices = nearest_in_chunks(codes, torch.tensor([[1.0], [-1.0]]), 3, rows=2)
    assert indices.tolist() == [[1, 3, 2], [0, 4, 2]]
    torch.testing.assert_close(values, torch.tensor([[0.9, 0.7, 0.5], [-0.1, -0.3, -0.5]]), atol=1e-3, rtol=0)


# poses


def test_a_pose_projects_to_its_box() -> None:
    boxes = torch.tensor([[45.0, 30.0, 55.0, 50.0], [70.0, 50.0, 81.0, 70.0]])
    book, views = small_book(), torch.tensor([0, 1])
    R, t = book.poses(views, boxes, K)
    torch.testing.assert_close(R, geometry.offaxis_rotation(t) @ book.rotations[views])
    seen = geometry.projected_box(CUBE, R, t, K)
    torch.testing.assert_close(geometry.box_center(seen), geometry.box_center(boxes), atol=1e-2, rtol=0)
    # 100 mm of the front face, at 1000 mm, are 10 and 20 pixels
    torch.testing.assert_close(t[0], torch.tensor([0.0, 0.0, 1050.0]), atol=0.5, rtol=0)


def test_a_copy_on_a_device_is_whole() -> None:
    book = small_book()
    copy = book.to(torch.device("meta"))
    for name in TENSORS:
        assert getattr(copy, name).device.type == "meta", name
        assert getattr(copy, name).shape == getattr(book, name).shape
    for name in ("label", "z_ref", "fingerprint"):
        assert getattr(copy, name) == getattr(book, name)


def test_a_codebook_comes_back_from_its_file(tmp_path: Path) -> None:
    book, path = small_book(), tmp_path / "book.safetensors"
    book.save(path)
    save_state(path, load_state(path) | {"exact": True})  # as earlier files say
    back = Codebook.load(path, "f")
    for name in TENSORS:
        assert torch.equal(getattr(back, name), getattr(book, name)), name
        assert getattr(back, name).dtype == getattr(book, name).dtype
    assert (back.label, back.z_ref, back.fingerprint) == ("cube", 500.0, "f")
    stale = f"{path} was made by other weights or settings than this network's: delete it, and it is built anew"
    with pytest.raises(CodebookError, match=f"^{re.escape(stale)}$"):
        Codebook.load(path, "g")
    save_state(path, {"label": "cube"})
    with pytest.raises(CodebookError, match=f"^{re.escape(str(path))} is no codebook: .*codes"):
        Codebook.load(path, "f")


# fingerprints


def part(name: str = "weight") -> nn.Module:
    module = nn.Module()
    module.register_parameter(name, nn.Parameter(torch.tensor([1.0, 2.0, 3.0])))
    return module


def of(*modules: nn.Module) -> str:
    digest = hashlib.sha256()
    add_weights(digest, modules)
    return digest.hexdigest()


def test_a_hash_of_weights_is_that_of_their_names_and_values() -> None:
    one = hashlib.sha256(b"weight" + torch.tensor([1.0, 2.0, 3.0]).numpy().tobytes()).hexdigest()
    assert of(part()) == one
    assert of(part("other")) != one
    assert of(part(), part()) != one
    both, reversed_ = nn.Module(), nn.Module()
    for module, names in ((both, "ab"), (reversed_, "ba")):
        for name in names:
            module.register_parameter(name, nn.Parameter(torch.full((2,), float(ord(name)))))
    assert of(both) == of(reversed_), "the order in which a network is built makes no difference"
    transposed = nn.Module()
    transposed.register_parameter("weight", nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T))
    straight = nn.Module()
    straight.register_parameter("weight", nn.Parameter(torch.tensor([[1.0, 3.0], [2.0, 4.0]])))
    assert of(transposed) == of(straight)


def test_a_version_that_changes_nothing_keeps_the_codebooks() -> None:
    """If this fails, every codebook that anybody has is built anew: is that meant?

    Settings of network, camera, codebook and objects that are not the default, padding, antialiasing and canvas, then
    the format and the weights.
    """
    changes = {"codebook.in_plane": 12, "network.latent": 64, "data.camera.focal": 80.0}
    settings = override(Settings(), changes)
    objects = (ObjectSettings(mesh="hammer", view_cone_deg=45.0), ObjectSettings(mesh="hand", symmetries="none"))
    settings = settings.model_copy(update={"objects": objects})
    pipeline: Any = SimpleNamespace(settings=settings, canvas=128, modules=lambda: [part()])
    camera, cone = '{"focal": 80.0}', '{"mesh": "", "view_cone_deg": 45.0}'
    chosen = f'[{{"latent": 64}}, {camera}, {{"in_plane": 12}}, {cone}, {{"mesh": ""}}]'
    weights = torch.tensor([1.0, 2.0, 3.0]).numpy().tobytes()
    known = f"[{chosen}, 1.2, 2, 128]".encode() + b"grey thumbnails" + b"weight" + weights
    assert fingerprint(pipeline) == hashlib.sha256(known).hexdigest()
