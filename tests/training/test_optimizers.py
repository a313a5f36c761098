"""Learning rates against the printed schedules."""

from __future__ import annotations

import pytest
import torch
from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5

from codepose.settings.files import load_preset
from codepose.settings.training import MOMENTUM, OptimizerSettings
from codepose.training.muon import nearly_orthogonal
from codepose.training.optimizers import build_optimizer, learning_rate


def test_the_papers_step_schedule() -> None:
    """0.01, a tenth of it every eight epochs (24)."""
    settings = load_preset("paper-4096-t1").step2.optimizer
    rates = [learning_rate(settings, 10_000, epoch, epoch / 30) for epoch in (0, 7.99, 8, 15.99, 16, 24, 29.9)]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-5, 1e-5])


def test_a_step_comes_at_its_epoch_although_epochs_are_added_up() -> None:
    """Eighty tenths come to a little less than eight."""
    settings = OptimizerSettings(lr=1.0, schedule="steps", warmup=0)
    epoch = sum([0.1] * 80)
    assert epoch < 8.0
    assert learning_rate(settings, 10_000, epoch, 0.5) == pytest.approx(0.1)


def test_warm_up_and_cosine() -> None:
    settings = OptimizerSettings(lr=1.0, schedule="cosine", warmup=10)
    assert learning_rate(settings, 1000, 1.1, 1.1) == pytest.approx(0.0), "a stage that lasts longer learns no more"
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


def test_adabounds_bounds_are_the_papers() -> None:
    """After 100 steps a rate is at most final_lr (1 + 1 / (gamma 100)) = 0.1 x 11 = 1.1 times the gradient's mean."""
    x = torch.nn.Parameter(torch.zeros(4))
    optimizer = build_optimizer([([x], 1.0)], OptimizerSettings(name="adabound", lr=0.1, weight_decay=0.0))
    for _ in range(100):
        before = x.detach().clone()
        x.grad = torch.full((4,), 1e-3)
        optimizer.step()
    torch.testing.assert_close(before - x.detach(), torch.full((4,), 1.1e-3), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("sgd", 1.0 - 0.1 * 0.3),
        ("adam", 1.0 - 0.1),  # it moves by the rate, however small a gradient is
        ("adamw", 1.0 - 0.1 * 0.3),
        ("muon", 1.0 - 0.1 * 0.3),
    ],
)
def test_without_a_gradient_weights_decay(name: str, left: float) -> None:
    """By rate x decay in one step; of biases and of matrices, which Muon turns."""
    weights = [torch.nn.Parameter(torch.ones(shape)) for shape in ((5,), (16, 20))]
    optimizer = build_optimizer([(weights, 1.0)], OptimizerSettings(name=name, lr=0.1, weight_decay=0.3))
    for one in weights:
        one.grad = torch.zeros_like(one)
    optimizer.step()
    for one in weights:
        torch.testing.assert_close(one.detach(), torch.full_like(one, left), rtol=1e-5, atol=0)


def test_adabounds_weights_decay() -> None:
    x = torch.nn.Parameter(torch.ones(4))
    optimizer = build_optimizer([([x], 1.0)], OptimizerSettings(name="adabound", lr=0.1, weight_decay=0.3))
    x.grad = torch.zeros(4)
    optimizer.step()
    assert float(x.detach().max()) < 0.999


def test_sgd_has_momentum() -> None:
    """0.1 of a gradient of 1, and then of 1 + 0.9."""
    x = torch.nn.Parameter(torch.zeros(4))
    optimizer = build_optimizer([([x], 1.0)], OptimizerSettings(name="sgd", lr=0.1, weight_decay=0.0))
    for _ in range(2):
        x.grad = torch.ones(4)
        optimizer.step()
    torch.testing.assert_close(x.detach(), torch.full((4,), -0.1 - 0.19))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_each_group_has_the_rate_of_its_factor(name: str) -> None:
    weights = [torch.nn.Parameter(torch.zeros(16, 20)) for _ in range(2)]
    optimizer = build_optimizer([([one], f) for one, f in zip(weights, (1.0, 0.25), strict=True)],
                                OptimizerSettings(name=name, lr=0.1, weight_decay=0.0))  # fmt: skip
    gradient = torch.randn(16, 20, generator=torch.Generator().manual_seed(0))
    for one in weights:
        one.grad = gradient.clone()
    optimizer.step()
    torch.testing.assert_close(weights[1].detach(), 0.25 * weights[0].detach())
    assert [group["factor"] for group in optimizer.param_groups] == [1.0, 0.25]


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


def test_muon_steps_along_nesterovs_momentum() -> None:
    """Two steps, as its authors write them; the weights decay, too."""
    random = torch.Generator().manual_seed(0)
    x = torch.nn.Parameter(torch.randn(16, 20, 3, 3, generator=random))
    settings = OptimizerSettings(name="muon", lr=0.01, weight_decay=0.2)
    optimizer, expected, velocity = build_optimizer([([x], 1.0)], settings), x.detach().clone(), torch.zeros(16, 180)
    m = MOMENTUM["muon"]
    for _ in range(2):
        gradient = torch.randn(x.shape, generator=random)
        velocity = m * velocity + (1.0 - m) * gradient.flatten(1)
        update = (1.0 - m) * gradient.flatten(1) + m * velocity
        expected = expected * (1.0 - 0.01 * 0.2)
        expected -= 0.01 * 0.2 * 180**0.5 * nearly_orthogonal(update).view(x.shape)
        x.grad = gradient.clone()
        optimizer.step()
        assert x.grad is None, "AdamW must not step again"
        torch.testing.assert_close(x.detach(), expected, rtol=1e-4, atol=1e-5)


def test_muon_turns_what_has_sixteen_inputs_and_outputs() -> None:
    shapes = [(16, 16), (15, 40), (40, 15), (40, 15, 3, 3), (1024, 1300), (1300, 1024)]
    weights = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    optimizer = build_optimizer([(weights, 1.0)], OptimizerSettings(name="muon"))
    turned = {id(p) for group in optimizer.param_groups for p in group["params"] if group["turned"] > 0}
    assert [id(one) in turned for one in weights] == [True, False, False, False, True, True]


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
