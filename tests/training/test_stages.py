"""What the losses of the stages are made of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from codepose.networks.build import build_joint
from codepose.synthesis.scenes import SceneSource
from codepose.synthesis.world import World
from codepose.training.stages import step2_stage, targets_of


@pytest.mark.parametrize(
    ("weights", "extra"),
    [
        ({}, set()),
        ({"step2_lambda_cos": 0.2}, {"cos"}),
        ({"step2_lambda_cos": 0.2, "step2_lambda_match": 0.3}, {"cos", "match"}),
    ],
)
def test_step_2_adds_the_losses_on_codes_only_when_they_have_a_weight(
    weights: dict[str, float], extra: set[str], make_settings, world: World
) -> None:
    asked = {f"losses.{name}": value for name, value in weights.items()}
    none = {"losses.step2_lambda_cos": 0.0, "losses.step2_lambda_match": 0.0}
    settings = make_settings(**{"losses.lambda_pose": 3.0, **none, **asked})
    torch.manual_seed(0)
    network = build_joint(settings)
    network.min_iou = 0.0
    stage = step2_stage(settings, world, network)
    total, terms = stage.loss(network.train(), stage.batch(torch.arange(4), 1.0))
    faster = {"rpn_objectness", "rpn_box", "head_class", "head_box"}
    assert set(terms) == faster | {"mse", "fed_back_iou", "skipped"} | extra
    expected = sum(terms[name] for name in faster) + 3.0 * terms["mse"]
    expected = expected + sum(weights[f"step2_lambda_{name}"] * terms[name] for name in extra)
    torch.testing.assert_close(total, expected)
    if extra:
        assert -1.0 <= terms["cos"].item() <= 1.0


def test_companions_that_are_all_but_hidden_are_not_to_be_found(make_settings) -> None:
    scenes = SceneSource(World(make_settings(**{"data.occlusion.companions": 2})), "train").scenes(torch.arange(8))
    assert scenes.other_objects is not None
    there = scenes.other_objects >= 0
    assert (targets_of(scenes).labels > 0).sum(1).tolist() == (1 + there.sum(1)).tolist(), "nobody hides here"
    image, slot = there.nonzero()[0].tolist()
    visible = scenes.other_visible.clone()
    visible[image, slot] = 0.05
    fewer = targets_of(replace(scenes, other_visible=visible)).split()
    assert len(fewer[image]["boxes"]) == int(there[image].sum())
    assert not (fewer[image]["boxes"] == scenes.other_boxes[image, slot]).all(1).any()
