"""Small counts that are not shown, and not to be computed from what is.

A count over fewer units than the minimum cell size may point at somebody. Of a table whose total
is known a single hidden cell is the total less the others; therefore cells are hidden until what
is hidden together is large enough (complementary suppression). Counted are units, not rows: twelve
notes of one patient are one.

Source: Hundepool et al., Statistical Disclosure Control (2012), chapter 4.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True)
class Cell:
    """A count of records, and of their units as far as it matters.

    Attributes:
      min_cell: Fewest units that may be counted.
      num_records: Records in the cell.
      units: Units in the cell, at most `min_cell` of them: more would say nothing new.
    """

    min_cell: int
    num_records: int = 0
    units: set[int] = field(default_factory=set)

    def add(self, unit: int) -> None:
        """Count one record of a unit."""
        self.num_records += 1
        if len(self.units) < self.min_cell:
            self.units.add(unit)

    @property
    def is_large(self) -> bool:
        """Whether its count may be shown."""
        return len(self.units) >= self.min_cell

    @property
    def count(self) -> int | None:
        """The count, None where it is small and not zero."""
        return self.num_records if self.is_large or not self.num_records else None


@dataclass(frozen=True, slots=True)
class Table(Generic[Key]):
    """What may be shown of a table with a known total.

    Attributes:
      shown: Counts that may be shown, largest first.
      num_hidden: Cells that are hidden, one by one.
      hidden_records: Records in them together, which the total gives away anyway; at least the
        minimum of units, unless nothing is shown.
    """

    shown: dict[Key, int]
    num_hidden: int
    hidden_records: int


def suppress(cells: Mapping[Key, Cell], min_cell: int) -> Table[Key]:
    """Hide the small cells, and as many of the smallest others as keep them hidden."""
    ordered = sorted(
        ((key, cell) for key, cell in cells.items() if cell.num_records),
        key=lambda item: (item[1].is_large, item[1].num_records),
    )
    num_hidden = sum(not cell.is_large for _, cell in ordered)
    if num_hidden:
        # One hidden cell is the total less the rest; several small ones may still be few people.
        num_hidden = max(num_hidden, 2)
        while num_hidden < len(ordered) and not _is_enough(ordered[:num_hidden], min_cell):
            num_hidden += 1
    num_hidden = min(num_hidden, len(ordered))
    return Table(
        shown={key: cell.num_records for key, cell in reversed(ordered[num_hidden:])},
        num_hidden=num_hidden,
        hidden_records=sum(cell.num_records for _, cell in ordered[:num_hidden]),
    )


def _is_enough(hidden: list[tuple[Key, Cell]], min_cell: int) -> bool:
    units: set[int] = set().union(*(cell.units for _, cell in hidden))
    return len(units) >= min_cell
