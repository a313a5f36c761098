"""Learning rates against the printed schedules."""

from __future__ import annotations

import pytest
import torch

from codepose.config import OptimizerSettings, load_preset
from codepose.training.optimizers import build_optimizer, learning_rate


def test_the_papers_step_schedule() -> None:
    """0.01, a tenth of it every eight epochs (24)."""
    settings = load_preset("paper-4096-t1").step2.optimizer
    rates = [learning_rate(settings, 10_000, epoch, epoch / 30) for epoch in (0, 7.99, 8, 15.99, 16, 24, 29.9)]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-5, 1e-5])


def test_warm_up_and_cosine() -> None:
    settings = OptimizerSettings(lr=1.0, schedule="cosine", warmup=10)
    assert learning_rate(settings, 0, 0.0, 0.0) == pytest.approx(0.1)
    assert learning_rate(settings, 9, 0.0, 0.0) == pytest.approx(1.0)
    assert learning_rate(settings, 500, 0.5, 0.5) == pytest.approx(0.5)
    assert learning_rate(settings, 1000, 1.0, 1.0) == pytest.approx(0.0)


@pytest.mark.parametrize("name", ["adabound", "sgd", "adam", "adamw"])
def test_every_optimizer_descends(name: str) -> None:
    x = torch.nn.Parameter(torch.ones(4))
    optimizer = build_optimizer([([x], 1.0)], OptimizerSettings(name=name, lr=0.05))
    for _ in range(50):
        optimizer.zero_grad()
        x.square().sum().backward()
        optimizer.step()
    assert float(x.detach().square().sum()) < 0.5
