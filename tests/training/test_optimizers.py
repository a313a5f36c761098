"""Learning rates against the printed schedules."""

from __future__ import annotations

import pytest
import torch
from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5

from codepose.settings.files import load_preset
from codepose.settings.training import OptimizerSettings
from codepose.training.muon import nearly_orthogonal
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


def test_a_shortened_stage_is_not_all_warm_up() -> None:
    """A time limit may leave fewer iterations than the warm-up has."""
    settings = OptimizerSettings(lr=1.0, warmup=100)
    rates = [learning_rate(settings, step, 0.0, step / 40) for step in range(40)]
    assert rates[:3] == pytest.approx([0.01, 0.25, 0.5])
    assert rates[4:] == [1.0] * 36


@pytest.mark.parametrize("name", ["adabound", "adam"])
def test_a_factor_on_the_rate_lasts(name: str) -> None:
    """AdaBound ends in steps of ``FINAL_LR`` times the gradient, whatever rate it began with."""
    full, tenth = (torch.nn.Parameter(torch.zeros(4)) for _ in range(2))
    optimizer = build_optimizer([([full], 1.0), ([tenth], 0.1)], OptimizerSettings(name=name, lr=1e-4))
    for _ in range(1000):
        optimizer.zero_grad()
        (1e-3 * (full + tenth)).sum().backward()
        before = full.detach().clone(), tenth.detach().clone()
        optimizer.step()
    moved = [float((p.detach() - b).abs().mean()) for p, b in zip((full, tenth), before, strict=True)]
    assert moved[1] == pytest.approx(0.1 * moved[0], rel=0.2)


@pytest.mark.parametrize("name", ["adabound", "sgd", "adam", "adamw", "muon"])
def test_every_optimizer_descends(name: str) -> None:
    x = torch.nn.Parameter(torch.ones(4))
    optimizer = build_optimizer([([x], 1.0)], OptimizerSettings(name=name, lr=0.05))
    for _ in range(50):
        optimizer.zero_grad()
        x.square().sum().backward()
        optimizer.step()
    assert float(x.detach().square().sum()) < 0.5


def test_muon_turns_hidden_weights_and_leaves_the_rest_to_adamw() -> None:
    """A matrix moves by an orthogonal step whatever its gradient's size; biases and thin layers by AdamW's rule."""
    torch.manual_seed(0)
    first, hidden, bias = (torch.nn.Parameter(torch.zeros(s)) for s in ((16, 3, 3, 3), (24, 16, 3, 3), (24,)))
    settings = OptimizerSettings(name="muon", lr=0.1)
    optimizer = build_optimizer([([first, hidden, bias], 1.0)], settings)
    for parameter in (first, hidden, bias):
        parameter.grad = 0.01 * torch.randn_like(parameter)
    optimizer.step()
    step = hidden.detach().flatten(1)
    sides = torch.linalg.svdvals(step) / (0.1 * 0.2 * (16 * 9) ** 0.5)
    assert sides.min() > 0.6
    assert sides.max() < 1.3
    for parameter in (first, bias):
        assert parameter.detach().abs() == pytest.approx(torch.full(parameter.shape, 0.1).numpy(), rel=1e-2)


@pytest.mark.parametrize("shape", [(24, 24), (16, 200), (300, 20)])
def test_muons_iteration_is_newton_and_schulzs(shape: tuple[int, int]) -> None:
    """As the library multiplies it, step by step in double precision, for singular values from 1 to a millionth."""
    torch.manual_seed(0)
    few = min(shape)
    left, right = (torch.linalg.qr(torch.randn(side, few, dtype=torch.float64)).Q for side in shape)
    matrix = 7.0 * (left * torch.logspace(0, -6, few, dtype=torch.float64)) @ right.mT
    expected = zero_power_via_newton_schulz_5(matrix, dtype=torch.float64)
    torch.testing.assert_close(nearly_orthogonal(matrix), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(nearly_orthogonal(matrix.float()), expected.float(), rtol=0, atol=1e-3)


def test_muon_of_a_gradient_of_zeros_is_zero() -> None:
    assert torch.equal(nearly_orthogonal(torch.zeros(4, 9)), torch.zeros(4, 9))


def test_muon_goes_on_where_its_state_was_saved() -> None:
    def trained(steps: int, state: dict | None = None, start: torch.Tensor | None = None):
        x = torch.nn.Parameter(torch.ones(20, 30) if start is None else start.clone())
        optimizer = build_optimizer([([x], 1.0)], OptimizerSettings(name="muon", lr=0.01))
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            (x * torch.arange(30.0)).square().sum().backward()
            optimizer.step()
        return x.detach(), optimizer.state_dict()

    half, state = trained(3)
    assert torch.equal(trained(3, state, half)[0], trained(6)[0])


def test_muon_leaves_very_large_matrices_to_adamw() -> None:
    """Those of a 4,096-D latent: turning them would take ten times as long as all the rest."""
    large, hidden = torch.nn.Parameter(torch.zeros(1200, 1100)), torch.nn.Parameter(torch.zeros(1200, 1000))
    optimizer = build_optimizer([([large, hidden], 1.0)], OptimizerSettings(name="muon", lr=0.1))
    for parameter in (large, hidden):
        parameter.grad = torch.full_like(parameter, 0.01)
    optimizer.step()
    assert "exp_avg" in optimizer.state[large]
    assert "momentum" in optimizer.state[hidden]
