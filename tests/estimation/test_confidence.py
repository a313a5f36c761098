"""The confidence: a logistic regression that finds a known law again, and can be kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from codepose.estimation.confidence import Confidence
from codepose.estimation.evidence import evidence
from codepose.estimation.methods import _refinement_mark
from codepose.settings.inference import RefinementSettings
from codepose.storage.checksums import MARK, DamagedError, read_json, write_json

COUNT = 4000


def samples(count: int = COUNT) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Evidence of which the second and fourth column decide, what came of it, and the true probability."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(count, 4, generator=g, dtype=torch.float64) * torch.tensor([3.0, 0.1, 0.2, 0.5]) + 0.4
    chance = torch.sigmoid(-1.0 + 8.0 * (x[:, 1] - 0.4) + 3.0 * (x[:, 3] - 0.4))
    return x, torch.rand(count, generator=g) < chance, chance


def test_it_finds_the_law_that_made_the_data() -> None:
    x, right, chance = samples()
    found = Confidence.fit(x, right)
    slopes = [w / s for w, s in zip(found.weights, found.scale, strict=True)]
    assert slopes == pytest.approx([0.0, 8.0, 0.0, 3.0], abs=0.8)
    assert float((found(x) - chance).abs().max()) < 0.06
    assert (found.detections, found.correct) == (COUNT, int(right.sum()))
    # at the optimum the mean confidence is the share that is right, up to Platt's pull towards the middle
    assert float(found(x).mean()) == pytest.approx(float(right.float().mean()), abs=1e-3)


def test_the_fit_is_a_minimum_of_the_penalised_likelihood() -> None:
    x, right, _ = samples(60)
    found = Confidence.fit(x, right)
    hits = int(right.sum())
    wanted = torch.where(right, (hits + 1) / (hits + 2), 1 / (60 - hits + 2)).double()
    z = (x - torch.tensor(found.mean)) / torch.tensor(found.scale)
    parameters = torch.tensor([*found.weights, found.bias], dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        z @ parameters[:4] + parameters[4], wanted, reduction="sum"
    )
    (loss + 0.5 * parameters[:4].square().sum()).backward()
    assert parameters.grad is not None
    assert float(parameters.grad.abs().max()) < 1e-3


@pytest.mark.parametrize("right", [True, False])
def test_scenes_that_are_all_right_or_all_wrong_give_no_certainty(right: bool) -> None:
    x = torch.rand(30, 4, dtype=torch.float64)
    found = Confidence.fit(x, torch.full((30,), right))
    expected = 31 / 32 if right else 1 / 32
    assert float(found(x).mean()) == pytest.approx(expected, abs=1e-3)


def test_evidence_that_is_always_the_same_counts_for_nothing() -> None:
    x, right, _ = samples()
    x[:, 3] = 0.0  # no contour without refinement
    found = Confidence.fit(x, right)
    assert found.weights[3] == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(found(x)).all()


def test_evidence_of_any_size_is_standardised() -> None:
    x, right, _ = samples(200)
    x[:, 1] *= 1e-3
    found = Confidence.fit(x, right)
    torch.testing.assert_close(torch.tensor(found.scale).double(), x.std(0, unbiased=False), rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.tensor(found.mean).double(), x.mean(0), rtol=1e-5, atol=0)


def test_nothing_detected_is_said_in_words() -> None:
    with pytest.raises(ValueError, match="nothing was detected"):
        Confidence.fit(torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool))


def test_the_score_enters_as_its_logit() -> None:
    rows = evidence(*(torch.tensor([v]) for v in (0.9, 0.5, -0.2, 0.3)))
    assert rows[0].tolist() == pytest.approx([math.log(9.0), 0.5, -0.2, 0.3], abs=1e-5)
    sure, word = torch.tensor([0.9999]), torch.tensor([2.5])
    rows = evidence(sure, *(torch.zeros(1),) * 3, word)
    assert rows[0].tolist() == pytest.approx([math.log(9999.0), 0.0, 0.0, 0.0, 2.5], abs=1e-2)
    assert torch.isfinite(evidence(torch.tensor([0.0, 1.0]), *(torch.zeros(2),) * 3)).all()


def test_it_survives_a_file_and_belongs_to_one_network(tmp_path: Path) -> None:
    x, right, _ = samples()
    found = Confidence.fit(x, right, "mark")
    found.save(tmp_path / "c.json")
    assert Confidence.load(tmp_path / "c.json", "mark") == found
    assert Confidence.load(tmp_path / "c.json", "other") is None
    assert Confidence.load(tmp_path / "none.json", "mark") is None
    (tmp_path / "c.json").write_text('{"mean": [1]}')
    assert Confidence.load(tmp_path / "c.json", "mark") is None


def test_a_damaged_file_is_named_and_not_passed_over(tmp_path: Path) -> None:
    x, right, _ = samples(60)
    path = tmp_path / "joint.json"
    Confidence.fit(x, right, "mark").save(path)
    whole = path.read_bytes()
    for offset in range(0, len(whole), 7):
        for content in (whole[:offset], whole[:offset] + bytes([whole[offset] ^ 128]) + whole[offset + 1 :]):
            path.write_bytes(content)
            with pytest.raises(DamagedError, match=rf"{path} .*: delete it, and `codepose calibrate` makes it again$"):
                Confidence.load(path, "mark")
    old = json.loads(whole)
    del old[MARK]
    path.write_text(json.dumps(old))
    assert Confidence.load(path, "mark") is not None, "one of before has no checksum"
    path.write_text(json.dumps(old | {"bias": float("nan")}))
    assert Confidence.load(path, "mark") is None


def test_a_file_with_a_weight_too_few_is_no_confidence(tmp_path: Path) -> None:
    fitted = Confidence.fit(torch.randn(20, 5), torch.arange(20) > 9, "mark")
    fitted.save(tmp_path / "c.json")
    assert Confidence.load(tmp_path / "c.json", "mark") == fitted
    write_json(tmp_path / "c.json", read_json(tmp_path / "c.json") | {"weights": [0.0] * 4})
    assert Confidence.load(tmp_path / "c.json", "mark") is None


def test_what_was_calibrated_when_most_numbers_of_refinement_were_settings_is_valid() -> None:
    """If this fails, every run must be calibrated anew: is that meant?"""
    known = '{"candidates":1024,"hypotheses":8,"judged":32,"edge_views":16,"looks":3,"apart_deg":12.0,'
    known += '"similarity":0.5,"agreement":0.2,"rounds":4,"keep":4,"step_deg":8.0}'
    assert _refinement_mark(RefinementSettings()) == known
    other = _refinement_mark(RefinementSettings(refiner="own", rounds=2))
    assert other == known.replace("{", '{"refiner":"own",').replace('"rounds":4', '"rounds":2')
    assert set(RefinementSettings.model_fields) <= set(json.loads(other)), "a new setting changes the mark, too"
