"""No small count is shown, and none can be computed from what is."""

from hypothesis import given
from hypothesis import strategies as st

from client.suppression import Cell, suppress

MIN = 5


def cells(**units: int) -> dict[str, Cell]:
    found = {}
    for place, (name, number) in enumerate(units.items()):
        found[name] = Cell(MIN)
        for unit in range(number):
            found[name].add(unit + 1000 * place)
    return found


def test_large_cells_are_shown_largest_first() -> None:
    table = suppress(cells(a=7, b=90, c=5), MIN)
    assert list(table.shown.items()) == [("b", 90), ("a", 7), ("c", 5)]
    assert table.num_hidden == table.hidden_records == 0


def test_a_single_small_cell_takes_the_next_with_it() -> None:
    table = suppress(cells(a=2, b=90, c=7), MIN)
    assert table.shown == {"b": 90}
    assert table.num_hidden == 2
    assert table.hidden_records == 9


def test_of_two_cells_none_is_shown_when_one_is_small() -> None:
    assert suppress(cells(a=2, b=90), MIN).shown == {}


def test_several_small_cells_that_are_few_people_together_take_another() -> None:
    assert suppress(cells(a=1, b=1, c=8, d=50), MIN).shown == {"d": 50}
    assert suppress(cells(a=3, b=3, c=8, d=50), MIN).shown == {"d": 50, "c": 8}


def test_many_records_of_one_person_are_one() -> None:
    cell = Cell(MIN)
    for _ in range(100):
        cell.add(1)
    assert cell.count is None
    assert not cell.is_large
    assert suppress({"a": cell, **cells(b=90, c=80)}, MIN).shown == {"b": 90}


@given(st.lists(st.integers(0, 30), max_size=12))
def test_whoever_knows_the_total_learns_no_small_count(sizes: list[int]) -> None:
    full = cells(**{f"c{place}": size for place, size in enumerate(sizes)})
    table = suppress(full, MIN)
    assert all(count >= MIN for count in table.shown.values())
    present = {name for name, cell in full.items() if cell.num_records}
    hidden = present - table.shown.keys()
    assert len(hidden) == table.num_hidden != 1 or len(present) == 1
    assert sum(sizes) - sum(table.shown.values()) == table.hidden_records
    if table.shown and hidden:
        assert table.hidden_records >= MIN
        # Nothing was hidden for nothing: the largest hidden cell is needed, or small itself.
        assert max(full[name].num_records for name in hidden) <= min(table.shown.values())
    if all(size == 0 or size >= MIN for size in sizes):
        assert not hidden
