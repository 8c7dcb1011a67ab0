"""Factors of products: whose turn it is, which terms a site trains, and the same product anew."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import AdapterConfig, TensorSpec, Train
from model.factors import (
    ROW_NORM,
    after_round,
    factor_pairs,
    leading_mask,
    refactorise,
    round_specs,
)
from model.tensors import Packed, packed_size, split

QUICK = settings(max_examples=100, deadline=None)


def layer(name: str, num_experts: int, rank: int, inputs: int, outputs: int) -> list[TensorSpec]:
    """The two factors of one weight, in peft's layout."""
    return [
        TensorSpec(name=f"{name}.lora_A.weight", shape=(num_experts * rank, inputs), trained=True),
        TensorSpec(
            name=f"{name}.lora_B.weight", shape=(outputs, rank * num_experts), trained=True
        ),
    ]


def products(specs: Sequence[TensorSpec], rank: int, packed: Packed) -> list[np.ndarray]:
    """B A of every expert of every weight, float64, one by one from peft's layout."""
    tensors = split(specs, packed.astype(np.float32))
    dense = []
    for name, a in tensors.items():
        if ".lora_A." not in name:
            continue
        b = tensors[name.replace("lora_A", "lora_B")].astype(np.float64)
        num_experts = len(a) // rank
        for expert in range(num_experts):
            rows = a[expert * rank : (expert + 1) * rank].astype(np.float64)
            # Innermost: column r of expert e is column r * E + e.
            dense.append(b[:, expert::num_experts] @ rows)
    return dense


@st.composite
def adapters(draw: st.DrawFn) -> tuple[list[TensorSpec], int, Packed]:
    """A linear layer and experts of small random shapes, with random values."""
    rank = draw(st.integers(1, 5))
    sizes = st.integers(1, 9)
    specs = [
        *layer("a", 1, rank, draw(sizes), draw(sizes)),
        *layer("b", draw(st.integers(1, 4)), rank, draw(sizes), draw(sizes)),
    ]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.normal(size=packed_size(specs)).astype(np.float32)
    if draw(st.booleans()):
        # As in a round of which nothing came: B is zero.
        for name, tensor in split(specs, values).items():
            tensor[...] *= ".lora_A." in name
    return specs, rank, values


@QUICK
@given(adapter=adapters())
def test_new_factors_have_the_same_product(adapter: tuple[list[TensorSpec], int, Packed]) -> None:
    specs, rank, packed = adapter
    config = AdapterConfig(lora_rank=rank, lora_alpha=1.0, train="B-svd")
    released = after_round(specs, config, packed)
    before, after = (products(specs, rank, each) for each in (packed, released))
    scale = max(float(np.abs(product).max()) for product in before)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(new, old, rtol=0, atol=1e-5 * max(scale, 1e-3))


@QUICK
@given(
    sizes=st.tuples(*[st.integers(1, 6)] * 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_of_a_new_a_are_orthogonal_and_b_leads_with_its_longest_column(
    sizes: tuple[int, int, int, int], seed: int
) -> None:
    num_experts, rank, inputs, outputs = sizes
    rng = np.random.default_rng(seed)
    a, b = refactorise(
        rng.normal(size=(num_experts, rank, inputs)), rng.normal(size=(num_experts, outputs, rank))
    )
    num_rows = min(rank, inputs)
    for expert in range(num_experts):
        gram = a[expert] @ a[expert].T
        expected = np.diag([ROW_NORM**2] * num_rows + [0.0] * (rank - num_rows))
        np.testing.assert_allclose(gram, expected, atol=1e-9)
        lengths = np.linalg.norm(b[expert], axis=0)
        assert (np.diff(lengths) <= 1e-9).all()
        singular = np.linalg.svd(b[expert] @ a[expert], compute_uv=False)
        np.testing.assert_allclose(
            singular[: min(rank, outputs, inputs)] / ROW_NORM,
            lengths[: min(rank, outputs, inputs)],
            atol=1e-9,
        )
        largest = np.abs(a[expert]).argmax(1)
        assert (a[expert][np.arange(rank), largest] >= 0).all()


def test_the_first_terms_of_new_factors_are_the_best_approximation_of_their_rank() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(1, 4, 9)), rng.normal(size=(1, 7, 4))
    new_a, new_b = refactorise(a, b)
    u, s, v = np.linalg.svd((b @ a)[0], full_matrices=False)
    np.testing.assert_allclose(new_b[0, :, :2] @ new_a[0, :2], u[:, :2] * s[:2] @ v[:2])


def test_a_new_a_turns_within_what_the_old_one_spanned() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(1, 3, 8))
    new_a, _ = refactorise(a, rng.normal(size=(1, 5, 3)))
    assert not np.allclose(new_a, a)
    assert np.linalg.matrix_rank(np.concatenate([a[0], new_a[0]])) == 3


def test_the_same_factors_in_other_signs_and_order_give_the_same_new_ones() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 8)), rng.normal(size=(2, 5, 3))
    order, signs = [2, 0, 1], np.array([-1.0, 1.0, -1.0])
    for old, new in zip(
        refactorise(a, b),
        refactorise(a[:, order] * signs[:, None], b[:, :, order] * signs),
        strict=True,
    ):
        np.testing.assert_allclose(new, old, atol=1e-12)


@pytest.mark.parametrize("train", ["B", "AB"])
def test_other_modes_leave_the_factors_as_they_are(train: Train) -> None:
    specs = layer("a", 2, 2, 3, 4)
    packed = np.ones(packed_size(specs), dtype=np.float32)
    config = AdapterConfig(lora_rank=2, lora_alpha=1.0, train=train)
    assert after_round(specs, config, packed) is packed


@pytest.mark.parametrize(("train", "expected"), [("B", "BBBB"), ("B-svd", "BBBB"), ("AB", "BABA")])
def test_one_factor_trains_in_each_round(train: Train, expected: str) -> None:
    config = AdapterConfig(lora_rank=2, lora_alpha=1.0, train=train)
    specs = [
        TensorSpec(name=f"x.lora_{f}.weight", shape=(2, 2), trained=f in config.trained_factors)
        for f in "AB"
    ]
    turns = [
        [spec.name[7] for spec in round_specs(specs, config, number) if spec.trained]
        for number in range(1, 5)
    ]
    assert turns == [[factor] for factor in expected]


@QUICK
@given(adapter=adapters(), data=st.data())
def test_the_leading_values_make_the_first_terms_of_every_product(
    adapter: tuple[list[TensorSpec], int, Packed], data: st.DataObject
) -> None:
    specs, rank, packed = adapter
    kept = data.draw(st.integers(1, rank))
    mask = leading_mask(specs, rank, kept)
    masked = products(specs, rank, packed * mask)
    tensors = split(specs, packed)
    expected = []
    for pair in factor_pairs(specs, rank):
        a = tensors[pair.a].reshape(pair.num_experts, rank, -1).astype(np.float64)
        b = tensors[pair.b].reshape(-1, rank, pair.num_experts).astype(np.float64)
        expected += [b[:, :kept, e] @ a[e, :kept] for e in range(pair.num_experts)]
    for got, wanted in zip(masked, expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-9)
    assert mask.sum() * rank == kept * len(packed)


@pytest.mark.parametrize(
    "specs",
    [
        layer("a", 1, 3, 4, 4),
        layer("a", 1, 2, 4, 4)[:1],
        layer("a", 1, 2, 4, 4)[1:],
        [TensorSpec(name="packed", shape=(4,), trained=True)],
        [layer("a", 1, 2, 4, 4)[0], layer("a", 2, 2, 4, 4)[1]],
    ],
)
def test_tensors_that_are_no_pairs_of_the_rank_are_refused(specs: list[TensorSpec]) -> None:
    with pytest.raises(ValueError, match="expected factors"):
        list(factor_pairs(specs, 2))
