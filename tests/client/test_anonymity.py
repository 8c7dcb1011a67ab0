"""k and l are those of the literature: by hand, and as pycanon computes them."""

from collections.abc import Sequence

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from pycanon import anonymity as pycanon

from client.anonymity import Anonymity, Classes


def measure(
    rows: Sequence[tuple[str, ...]], num_quasi: int, min_cell: int = 3
) -> Anonymity | None:
    names = tuple(f"q{i}" for i in range(num_quasi))
    classes = Classes(names, ("s",), min_cell)
    for unit, row in enumerate(rows):
        classes.add(unit, row[:num_quasi], row[num_quasi:])
    return classes.measure()


def test_the_table_of_the_literature() -> None:
    # Machanavajjhala et al. (2007), figure 2: 4-anonymous, and one class has a single disease.
    rows = (
        [("130**", "<30", disease) for disease in ("heart", "heart", "viral", "viral")]
        + [("1485*", ">=40", disease) for disease in ("cancer", "heart", "viral", "viral")]
        + [("130**", "3*", "cancer")] * 4
    )
    found = measure(rows, 2)
    assert found is not None
    assert found.k == 4
    assert found.diversity == {"s": 1}
    assert found.num_classes == 3
    assert found.small_records == 0


def test_records_in_small_classes_are_counted_unless_they_are_few() -> None:
    rows = [("a", "x")] * 10 + [("b", "x")] * 2 + [("c", "x")] * 2
    found = measure(rows, 1)
    assert found is not None
    assert found.small_records == 4
    few = measure([("a", "x")] * 10 + [("b", "x")] * 2, 1)
    assert few is not None
    assert few.k is None
    assert few.small_records is None


def test_nothing_is_measured_without_a_row() -> None:
    assert measure([], 1) is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.sampled_from("pqr")),
        min_size=1,
        max_size=40,
    )
)
def test_pycanon_computes_the_same(rows: list[tuple[str, ...]]) -> None:
    found = measure(rows, 2)
    assert found is not None
    table = pd.DataFrame(rows, columns=["q0", "q1", "s"])
    k = pycanon.k_anonymity(table, ["q0", "q1"])
    assert found.k in ((k,) if found.small_records == 0 else (None,))
    assert found.diversity["s"] == pycanon.l_diversity(table, ["q0", "q1"], ["s"])
