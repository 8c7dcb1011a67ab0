"""The two factors of every adapted weight, as arrays: which values train, and in which basis.

A weight's adapter is the product B A. Sites send one factor at a time, so that the mean over sites
is exact: mean(B_i) A = mean(B_i A), and B mean(A_i) = mean(B A_i). With `B-svd` the coordinator
then writes the same product in other factors (FedSVD, arXiv 2505.12805). This module needs no
torch, so that an institution's door and the aggregator can use it.

Shape suffixes: E experts (1 for a linear layer), R rank, I inputs, O outputs; K the smaller of
rank and inputs, L of rank and outputs, M of K and L. A holds the experts one below the other,
(E * R, I); B holds them innermost, (O, R * E).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from model.config import AdapterConfig, Factor, TensorSpec
from model.tensors import Packed, pack, split

Mask = npt.NDArray[np.bool_]
_Values = npt.NDArray[np.float64]

# What a row of A has in the initial adapter, on average: the same learning rate means the same
# before and after a re-factorisation.
ROW_NORM: Final = 3**-0.5


@dataclass(frozen=True, slots=True)
class FactorPair:
    """The names of the two factors of one adapted weight, and how many experts they hold."""

    a: str
    b: str
    num_experts: int


def factor_of(name: str) -> Factor | None:
    """Which factor a tensor is; None where it is none."""
    if name.endswith(".lora_A.weight"):
        return "A"
    return "B" if name.endswith(".lora_B.weight") else None


def factor_pairs(specs: Sequence[TensorSpec], lora_rank: int) -> Iterator[FactorPair]:
    """The pairs that the tensors are, in their order.

    Raises:
      ValueError: A tensor is no factor, or two factors do not fit each other and the rank.
    """
    shapes = {spec.name: spec.shape for spec in specs}
    for spec in specs:
        factor = factor_of(spec.name)
        other = spec.name.replace(".lora_A.", ".lora_B.")
        if factor is None or (factor == "B" and _a_of(spec.name) not in shapes):
            raise ValueError(f"expected factors A and B of every weight, got {spec.name} alone")
        if factor == "B":
            continue
        num_rows = spec.shape[0]
        if (
            len(spec.shape) != 2
            or num_rows % lora_rank
            or len(shapes.get(other, ())) != 2
            or shapes[other][1] != num_rows
        ):
            raise ValueError(
                f"expected factors of rank {lora_rank}, got {spec.name} of shape "
                f"{list(spec.shape)} with {list(shapes.get(other, ()))}"
            )
        yield FactorPair(spec.name, other, num_rows // lora_rank)


def round_specs(
    specs: Sequence[TensorSpec], config: AdapterConfig, server_round: int
) -> tuple[TensorSpec, ...]:
    """All tensors, `trained` where they train in this round.

    With `AB` the factors take turns: B in odd rounds, A in even ones. B first, because A has no
    gradient as long as B is zero.
    """
    if config.train != "AB":
        return tuple(specs)
    turn = "B" if server_round % 2 else "A"
    return tuple(
        replace(spec, trained=spec.trained and factor_of(spec.name) == turn) for spec in specs
    )


def leading_mask(specs: Sequence[TensorSpec], lora_rank: int, rank: int) -> Mask:
    """Which values of a packed array belong to the first `rank` of the product's terms.

    The product is a sum of `lora_rank` terms, each a column of B times a row of A.

    Raises:
      ValueError: A tensor is not a factor of `lora_rank`.
    """
    masks = []
    for spec in specs:
        mask = np.zeros(spec.shape, dtype=np.bool_)
        factor = factor_of(spec.name)
        size = spec.shape[0 if factor == "A" else -1]
        if factor is None or size % lora_rank:
            raise ValueError(f"expected factors of rank {lora_rank}, got {spec.name}")
        if factor == "A":
            mask.reshape(-1, lora_rank, spec.shape[1])[:, :rank] = True
        else:
            mask.reshape(spec.shape[0], lora_rank, -1)[:, :rank] = True
        masks.append(mask.reshape(-1))
    return np.concatenate(masks)


def after_round(specs: Sequence[TensorSpec], config: AdapterConfig, packed: Packed) -> Packed:
    """The adapter that a round releases: the same products, with `B-svd` in other factors.

    Raises:
      ValueError: `packed` does not fit `specs`, or `specs` not the adapter's rank.
    """
    if config.train != "B-svd":
        return packed
    tensors = dict(split(specs, packed))
    for pair in factor_pairs(specs, config.lora_rank):
        a_ERI = tensors[pair.a].reshape(pair.num_experts, config.lora_rank, -1)
        b_ORE = tensors[pair.b].reshape(-1, config.lora_rank, pair.num_experts)
        new_a_ERI, new_b_EOR = refactorise(a_ERI, b_ORE.transpose(2, 0, 1))
        tensors[pair.a] = _like(tensors[pair.a], new_a_ERI)
        tensors[pair.b] = _like(tensors[pair.b], new_b_EOR.transpose(1, 2, 0))
    return pack(specs, tensors)


def refactorise(
    a_ERI: npt.NDArray[np.floating], b_EOR: npt.NDArray[np.floating]
) -> tuple[_Values, _Values]:
    """Other factors of the same products, float64: the singular value decomposition of each.

    A's rows are orthogonal, of norm `ROW_NORM`; B's columns are orthogonal, the longest first, and
    carry the singular values. The first terms of the new product are therefore its best
    approximation of that rank. Where the inputs are fewer than the rank, the last terms are zero.

    The rows of the new A span what those of the old one spanned: B A has no other rows. The dense
    product is never made.

    Source: Lee et al. 2025, arXiv 2505.12805, through QR of the thin factors.
    """
    q_EIK, r_EKR = np.linalg.qr(a_ERI.astype(np.float64).transpose(0, 2, 1))
    qb_EOL, rb_ELR = np.linalg.qr(b_EOR.astype(np.float64))
    u_ELL, s_EM, v_EKK = np.linalg.svd(rb_ELR @ r_EKR.transpose(0, 2, 1))
    num_kept = s_EM.shape[1]
    a_new = np.zeros(a_ERI.shape)
    b_new = np.zeros(b_EOR.shape)
    a_new[:, : v_EKK.shape[1]] = v_EKK @ q_EIK.transpose(0, 2, 1)
    b_new[:, :, :num_kept] = qb_EOL @ (u_ELL[:, :, :num_kept] * s_EM[:, None])
    # A decomposition leaves the signs open: the largest value of each row of A is positive.
    largest = np.abs(a_new).argmax(2)[:, :, None]
    signs_ER = np.where(np.take_along_axis(a_new, largest, 2)[:, :, 0] < 0, -1.0, 1.0)
    return a_new * (signs_ER[:, :, None] * ROW_NORM), b_new * (signs_ER[:, None] / ROW_NORM)


def _a_of(name: str) -> str:
    return name.replace(".lora_B.", ".lora_A.")


def _like(old: Packed, values: _Values) -> Packed:
    return values.reshape(old.shape).astype(np.float32)
