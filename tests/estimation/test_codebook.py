"""A codebook returns its own views, exactly, and refuses other weights (26-29)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from codepose.estimation import nearest_codes
from codepose.estimation.codebook import (
    Codebook,
    CodebookError,
    DamagedCodebookError,
    build_codebook,
    fingerprint,
)
from codepose.estimation.nearest_codes import RoundedCodes, nearest_in_chunks
from codepose.estimation.pipelines import JointPipeline, Pipeline, TwoStagePipeline
from codepose.geometry import geodesic_angle
from codepose.networks.build import build_extended, build_joint
from codepose.runtime.checkpoint import save_state
from codepose.settings.crop import ROI_PAD
from codepose.settings.files import override
from codepose.settings.schema import Settings
from codepose.synthesis.lookalikes import thumbnails
from codepose.synthesis.world import World


@pytest.fixture(scope="module", params=["joint", "two-stage"])
def pipeline(request: pytest.FixtureRequest, tiny_settings: Settings) -> Pipeline:
    torch.manual_seed(0)
    device = torch.device("cpu")
    if request.param == "joint":
        return JointPipeline(build_joint(tiny_settings), tiny_settings, device)
    return TwoStagePipeline(None, build_extended(tiny_settings), tiny_settings, device)


@pytest.fixture(scope="module")
def book(pipeline: Pipeline, world: World) -> Codebook:
    return build_codebook(pipeline, world, 0)


def random_book(count: int, dimension: int) -> Codebook:
    torch.manual_seed(0)
    codes = torch.nn.functional.normalize(torch.randn(count, dimension), dim=1).half()
    eye = torch.eye(3).expand(count, 3, 3)
    hull, offset = torch.rand(8, 3), torch.zeros(3)
    small, boxes = torch.rand(count, 64).half(), torch.ones(count, 4)
    return Codebook("x", codes, small, eye, boxes, 500.0, torch.eye(3), hull, offset, "f")


def test_a_codebook_finds_its_own_views(book: Codebook, pipeline: Pipeline, world: World) -> None:
    """Its own clean renders, through inference's path, come back as themselves."""
    index = torch.arange(0, len(book.codes), 3)
    objects = torch.zeros(len(index), dtype=torch.long)
    images = world.clean_views(objects, book.rotations[index], canvas=pipeline.canvas)
    half = (book.boxes[index, 2:] - book.boxes[index, :2]) / 2
    half = half / half.amax(1, keepdim=True) * world.settings.network.crop / ROI_PAD / 2
    boxes = torch.cat((pipeline.canvas / 2 - half, pipeline.canvas / 2 + half), 1)
    latents = pipeline.latents(pipeline.prepare(images), boxes, torch.arange(len(index)))
    similarity, found = book.search(latents)
    assert float(similarity.min()) > 0.999
    angles = geodesic_angle(book.rotations[found[:, 0]], book.rotations[index])
    assert float((angles.rad2deg() < 1.0).float().mean()) > 0.9


def test_boxes_and_distance_are_those_of_the_reference_view(book: Codebook, world: World) -> None:
    objects = torch.zeros(len(book.codes), dtype=torch.long)
    expected = world.boxes(objects, book.rotations, world.reference_translations(objects))
    torch.testing.assert_close(book.boxes, expected)
    R, t = book.poses(torch.arange(len(book.codes)), book.boxes, book.K)
    torch.testing.assert_close(t, world.reference_translations(objects), atol=0.05, rtol=0)
    assert float(geodesic_angle(R, book.rotations).max()) < 1e-3


@pytest.mark.parametrize("crowded", [False, True])
@pytest.mark.parametrize("count", [7, 1000])
@pytest.mark.parametrize("queries", [0, 1, 5, 30])
def test_search_is_exact_whatever_the_chunk_and_the_number_of_queries(
    count: int, queries: int, crowded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = random_book(count, 16)
    if crowded:  # as neighbouring views are: closer to each other than eight bits can tell
        close = torch.ones(16) + 0.01 * book.codes.float()
        book = dataclasses.replace(book, codes=torch.nn.functional.normalize(close, dim=1).half())
    wanted = book.codes.float()[torch.arange(queries) % count] + 0.001 * torch.randn(queries, 16)
    unit = torch.nn.functional.normalize(wanted, dim=1)
    brute = unit @ book.codes.float().T
    values, indices = brute.topk(5, dim=1)
    searches = [partial(nearest_in_chunks, book.codes, unit, 5, rows) for rows in (3, 100, 1 << 20)]
    searches.append(partial(book.search, wanted, 5))
    monkeypatch.setattr(nearest_codes, "_CHUNK", 16 * 3)
    searches.append(partial(RoundedCodes.of(book.codes).nearest, unit, 5))
    for search in searches:
        found, where = search()
        torch.testing.assert_close(found, values, rtol=0, atol=2e-6)
        if not crowded:
            assert torch.equal(where, indices)
        torch.testing.assert_close(brute.gather(1, where), values, rtol=0, atol=2e-6)
    with pytest.raises(ValueError, match="k must lie in"):
        book.search(wanted, k=count + 1)


@pytest.mark.usefixtures("exact_bytes")
@pytest.mark.parametrize("dimension", [16, 128, 4096])
@pytest.mark.parametrize("spread", ["even", "one value rules"])
def test_what_eight_bits_lose_is_allowed_for(dimension: int, spread: str) -> None:
    """Codes and queries all near each other, as those of a trained network are: the errors add up."""
    torch.manual_seed(0)
    raw = torch.rand(4001, dimension)
    if spread != "even":
        raw[:, 0] += 3.0 * dimension**0.5
    unit = torch.nn.functional.normalize(raw, dim=1)
    codes, query = unit[1:].half(), unit[:1]
    book = RoundedCodes.of(codes)
    off = (book.values.double() * book.scale - codes.double()).norm(dim=1)
    assert float(off.max()) == pytest.approx(book.error, rel=1e-3)
    assert book.length == pytest.approx(1.0, abs=1e-3)
    assert spread != "even" or book.error < 0.02, "so coarse that everything would be compared twice"
    found, where = book.nearest(query, 10)
    values = (codes.float() @ query[0]).topk(10).values
    torch.testing.assert_close(found[0], values, rtol=0, atol=2e-6)
    torch.testing.assert_close(codes[where[0]].float() @ query[0], values, rtol=0, atol=2e-6)


def test_a_code_of_nothing_finds_something() -> None:
    similarity, views = random_book(20, 16).search(torch.zeros(2, 16), 3)
    assert (similarity == 0).all()
    assert views.shape == (2, 3)


def test_another_networks_codebook_is_refused(book: Codebook, pipeline: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "book.safetensors"
    book.save(path)
    mark = fingerprint(pipeline)
    back = Codebook.load(path, mark)
    for name in ("codes", "rotations", "boxes", "K"):
        assert torch.equal(getattr(back, name), getattr(book, name))
    assert back.codes.dtype == torch.float16
    weight = next(pipeline.modules()[0].parameters())
    with torch.no_grad():
        weight.view(-1)[0] += 1e-6
        changed = fingerprint(pipeline)
        weight.view(-1)[0] -= 1e-6
    assert changed != mark
    with pytest.raises(CodebookError, match="other weights"):
        Codebook.load(path, changed)
    path.write_bytes(b"no")
    with pytest.raises(CodebookError, match="no codebook"):
        Codebook.load(path, mark)


def test_step_2_encodes_clean_views_as_the_codebook_does(make_settings: Callable[..., Settings], world: World) -> None:
    settings = make_settings(**{"losses.step2_lambda_cos": 0.1, "codebook.canvas": 64})
    torch.manual_seed(0)
    network = build_joint(settings)
    pipeline = JointPipeline(network, settings, torch.device("cpu"))
    book = build_codebook(pipeline, world, 0)
    images = world.clean_views(torch.zeros(5, dtype=torch.long), book.rotations[:5])
    with torch.no_grad():
        latents = network.view_latents(images, network.view_canvas)
    # the codebook renders the canvas, whose pixels are the crop's up to the renderer's rounding
    assert float(torch.nn.functional.cosine_similarity(latents, book.codes[:5].float()).min()) > 0.999


def test_what_the_latents_depend_on_changes_the_fingerprint(tiny_settings: Settings) -> None:
    def mark(settings: Settings) -> str:
        torch.manual_seed(0)
        return fingerprint(JointPipeline(build_joint(settings), settings, torch.device("cpu")))

    same = override(tiny_settings, {"objects.0.mesh": "elsewhere.ply", "step1.batch": 5, "losses.lambda_pose": 2.0})
    assert mark(same) == mark(tiny_settings)
    assert mark(override(tiny_settings, {"objects.0.symmetries": "none"})) == mark(tiny_settings)
    for key, value in (
        ("data.camera.focal", 80.0),
        ("data.antialias", 2),
        ("codebook.in_plane", 5),
        ("codebook.canvas", 64),
        ("objects.0.view_opposite", True),
        ("network.norm", "none"),
    ):
        assert mark(override(tiny_settings, {key: value})) != mark(tiny_settings), key


def test_rerank_puts_the_view_first_whose_clean_render_agrees(book: Codebook, world: World) -> None:
    wanted = torch.tensor([3, len(book.codes) - 1])
    images = world.clean_views(torch.zeros(2, dtype=torch.long), book.rotations[wanted])
    views = torch.arange(len(book.codes)).expand(2, -1)
    ranked, cosines = book.rerank(views, torch.zeros(views.shape), images)
    assert torch.equal(ranked[:, 0], wanted)
    assert torch.equal(ranked.sort(1).values, views)
    assert not cosines.any()


def test_rerank_weighs_codes_and_thumbnails(book: Codebook, world: World) -> None:
    images = world.clean_views(torch.zeros(2, dtype=torch.long), book.rotations[[3, 5]])
    similarity, views = book.search(torch.randn(2, book.codes.shape[1], generator=torch.Generator().manual_seed(0)), 9)
    ranked, cosines = book.rerank(views, similarity, images)
    for i in range(2):
        known = dict(zip(views[i].tolist(), similarity[i].tolist(), strict=True))
        value = {v: c + 0.5 * float(book.thumbnails[v].float() @ thumbnails(images)[i]) for v, c in known.items()}
        assert ranked[i].tolist() == sorted(value, key=lambda v: -value[v])
        assert cosines[i].tolist() == [known[v] for v in ranked[i].tolist()]


@pytest.mark.parametrize("fast", [True, False])
def test_every_processor_finds_the_same(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    book, wanted = random_book(500, 32), torch.randn(11, 32, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("codepose.estimation.codebook.multiplies_bytes", lambda: fast)
    values, views = book.search(wanted, 3)
    brute = (torch.nn.functional.normalize(wanted, dim=1) @ book.codes.float().T).topk(3, dim=1)
    torch.testing.assert_close(values, brute.values, rtol=0, atol=2e-6)
    assert torch.equal(views, brute.indices)


def test_older_instructions_are_not_trusted_with_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True})
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    assert nearest_codes.multiplies_bytes()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert not nearest_codes.multiplies_bytes()


def test_a_damaged_codebook_is_told_from_a_stale_one(tmp_path: Path) -> None:
    book, path = random_book(5, 16), tmp_path / "book"
    book.save(path)
    assert torch.equal(Codebook.load(path, "f").codes, book.codes)
    with pytest.raises(CodebookError, match="made by other weights") as stale:
        Codebook.load(path, "g")
    assert not isinstance(stale.value, DamagedCodebookError)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedCodebookError, match="is damaged"):
        Codebook.load(path, "f")
    state = {name: getattr(book, name) for name in book.__dataclass_fields__}
    wrong = {"codes": book.codes[:3], "rotations": book.rotations[:, :2], "K": 3, "hull": book.hull[:, :2]}
    for name, value in wrong.items():
        save_state(path, state | {name: value})
        with pytest.raises(DamagedCodebookError, match="is no codebook"):
            Codebook.load(path, "f")
    save_state(path, [1])
    with pytest.raises(DamagedCodebookError, match="is no codebook"):
        Codebook.load(path, "f")
