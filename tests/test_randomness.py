"""Random numbers by name: the same for an item wherever it is drawn, and evenly spread."""

from __future__ import annotations

import itertools
import math
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from codepose.randomness import Draws

light = settings(max_examples=60)
WORD = 2**64


def plain_mix(x: int) -> int:
    """SplitMix64's output function on Python's integers."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % WORD
    return x ^ (x >> 31)


def plain_uniform(seed: int, split: str, item: int, name: str, count: int) -> list[float]:
    golden = 0x9E3779B97F4A7C15
    key = (zlib.crc32(split.encode()) ^ (seed * 0x632BE59BD9B4E019)) % WORD
    state = plain_mix((plain_mix((key + golden) % WORD) + (item + 1) * golden) % WORD)
    stream = plain_mix((state + zlib.crc32(name.encode()) * golden) % WORD)
    return [(plain_mix((stream + (k + 1) * golden) % WORD) >> 40) / 2**24 for k in range(count)]


def drawn(items: list[int] | Tensor, seed: int = 3, split: str = "train") -> Draws:
    return Draws(seed, split, torch.as_tensor(items))


@given(seed=st.integers(-(2**40), 2**40), item=st.integers(0, 2**62), name=st.text(max_size=12))
@light
def test_agrees_with_the_plain_twin(seed: int, item: int, name: str) -> None:
    found = Draws(seed, "val", torch.tensor([item])).uniform(name, 2, 3)
    assert found.shape == (1, 2, 3)
    assert found.dtype == torch.float32
    assert found.flatten().tolist() == plain_uniform(seed, "val", item, name, 6)


def every_kind(draws: Draws) -> list[Tensor]:
    return [
        draws.uniform("a"),
        draws.uniform("b", 2, 3, low=-4.0, high=9.0),
        draws.chance("c", 0.4, 5),
        draws.integer("d", 1000, 4),
        draws.direction("e"),
    ]


@given(items=st.lists(st.integers(0, 10**9), min_size=1, max_size=12), data=st.data())
@light
def test_an_item_has_the_same_numbers_in_any_batch_and_order(items: list[int], data: st.DataObject) -> None:
    batch = every_kind(drawn(items))
    order = data.draw(st.permutations(range(len(items))))
    for whole, shuffled in zip(batch, every_kind(drawn([items[i] for i in order])), strict=True):
        assert torch.equal(whole[order], shuffled)
    for k, item in enumerate(items):
        for whole, alone in zip(batch, every_kind(drawn([item])), strict=True):
            assert torch.equal(whole[k : k + 1], alone)


def test_asking_again_or_for_more_gives_the_same_numbers() -> None:
    draws = drawn([5, 6, 7])
    first = draws.uniform("view", 2)
    draws.uniform("something else", 100)
    assert torch.equal(draws.uniform("view", 2), first)
    assert torch.equal(draws.uniform("view", 7)[:, :2], first)
    assert torch.equal(draws.uniform("view", 2, low=-1.0, high=1.0), first * 2 - 1)


@pytest.mark.parametrize("keep", [torch.tensor([True, False, True, False]), torch.tensor([3, 0, 0])])
def test_select_keeps_each_items_numbers(keep: Tensor) -> None:
    draws = drawn([11, 12, 13, 14])
    chosen = draws.select(keep)
    assert len(chosen) == len(draws.uniform("x")[keep])
    for some, whole in zip(every_kind(chosen), every_kind(draws), strict=True):
        assert torch.equal(some, whole[keep])


def test_no_items_give_empty_tensors() -> None:
    none = drawn([1, 2]).select(torch.zeros(2, dtype=torch.bool))
    assert len(none) == 0
    assert [tuple(x.shape) for x in every_kind(none)] == [(0,), (0, 2, 3), (0, 5), (0, 4), (0, 3)]


def test_seed_split_name_and_item_each_change_every_number() -> None:
    items = torch.arange(500)
    variants = {
        "as it is": drawn(items).uniform("x"),
        "seed": drawn(items, seed=4).uniform("x"),
        "negative seed": drawn(items, seed=-3).uniform("x"),
        "split": drawn(items, split="val").uniform("x"),
        "stage": drawn(items, split="scenes/train").uniform("x"),
        "name": drawn(items).uniform("y"),
        "longer name": drawn(items).uniform("x?"),
        "next item": drawn(items + 1).uniform("x"),
        "far item": drawn(items + 10**6).uniform("x"),
        "second number": drawn(items).uniform("x", 2)[:, 1],
    }
    for (one, a), (other, b) in itertools.combinations(variants.items(), 2):
        assert (a != b).float().mean() > 0.99, (one, other)
        correlation = float(torch.corrcoef(torch.stack((a, b)))[0, 1])
        assert abs(correlation) < 4.5 / math.sqrt(500), (one, other)


# the distribution; every bound is at about five standard deviations

MANY = torch.arange(40_000)


def chi_square_is_plausible(counts: np.ndarray) -> bool:
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return abs(statistic - freedom) < 5 * math.sqrt(2 * freedom)


def test_uniform_is_even_and_neighbours_are_unrelated() -> None:
    values = drawn(MANY).uniform("x", 2).double().numpy()
    assert 0 <= values.min() < 1e-4
    assert 1 - 1e-4 < values.max() < 1
    for column in (values[:, 0], values[:, 1]):
        assert chi_square_is_plausible(np.histogram(column, 100, (0, 1))[0])
    # in pairs: of one item's numbers, of an item and the next, and of two names
    other = drawn(MANY).uniform("y").double().numpy()
    for a, b in ((values[:, 0], values[:, 1]), (values[:-1, 0], values[1:, 0]), (values[:, 0], other)):
        assert chi_square_is_plausible(np.histogram2d(a, b, 12, ((0, 1), (0, 1)))[0])
    assert len(np.unique(values)) > 0.99 * values.size


def test_uniform_range() -> None:
    values = drawn(MANY).uniform("x", low=-3.0, high=5.0)
    assert -3.0 <= values.min() < -2.99
    assert 4.99 < values.max() <= 5.0
    assert torch.equal(drawn(MANY).uniform("x", low=0.7, high=0.7), torch.full((len(MANY),), 0.7))


@pytest.mark.parametrize("below", [1, 2, 7, 6000])
def test_integers_are_in_range_and_even(below: int) -> None:
    values = drawn(MANY).integer("n", below)
    assert values.dtype == torch.int64
    counts = np.bincount(values.numpy(), minlength=below)
    assert counts.size == below  # none at `below` or beyond; bincount refuses a negative one
    assert counts.sum() == len(MANY)
    assert below == 1 or chi_square_is_plausible(counts)


@pytest.mark.parametrize("probability", [0.0, 0.05, 0.5, 1.0])
def test_chance(probability: float) -> None:
    found = drawn(MANY).chance("c", probability)
    assert found.dtype == torch.bool
    sigma = math.sqrt(probability * (1 - probability) / len(MANY))
    assert abs(float(found.double().mean()) - probability) <= 5 * sigma


def test_a_larger_probability_keeps_what_a_smaller_one_chose() -> None:
    draws = drawn(MANY)
    assert not (draws.chance("c", 0.3) & ~draws.chance("c", 0.6)).any()


def test_directions_are_spread_evenly_over_the_sphere() -> None:
    d = drawn(MANY).direction("d").double()
    torch.testing.assert_close(d.norm(dim=1), torch.ones(len(MANY), dtype=torch.float64), atol=1e-6, rtol=0)
    assert d.mean(0).abs().max() < 5 / math.sqrt(3 * len(MANY))
    torch.testing.assert_close(d.T @ d / len(d), torch.eye(3, dtype=torch.float64) / 3, atol=0.01, rtol=0)
    for axis in range(3):  # Archimedes: each coordinate is uniform on [-1, 1]
        assert chi_square_is_plausible(np.histogram(d[:, axis].numpy(), 50, (-1, 1))[0])


def test_the_same_numbers_on_the_cpu() -> None:
    draws = Draws(3, "train", torch.arange(5), "meta")
    here = draws.on_cpu()
    assert (draws.device.type, here.device.type) == ("meta", "cpu")
    assert torch.equal(here.integer("place", 1000), Draws(3, "train", torch.arange(5)).integer("place", 1000))
