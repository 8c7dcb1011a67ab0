"""k-anonymity and l-diversity of a table: measures to report, never a guarantee.

Rows with the same quasi-identifiers are a class. k is the size of the smallest class (Sweeney,
2002), l the fewest different sensitive values in one (distinct l-diversity, Machanavajjhala et
al., 2007). Somebody who knows more than these columns, or another release, is not held back by
either; what a run guarantees is differential privacy.
"""

from dataclasses import dataclass, field

from client.suppression import Cell


@dataclass(frozen=True, kw_only=True, slots=True)
class Anonymity:
    """What the classes of quasi-identifiers look like.

    Attributes:
      quasi_identifiers: The columns.
      num_classes: Different combinations.
      k: Records in the smallest class; None where it has fewer units than the minimum.
      small_records: Records in classes of fewer units than the minimum cell; None where those
        records are themselves so few.
      diversity: l by sensitive column.
    """

    quasi_identifiers: tuple[str, ...]
    num_classes: int
    k: int | None
    small_records: int | None
    diversity: dict[str, int]


@dataclass(slots=True)
class Classes:
    """Counts the classes of a table, row by row.

    Attributes:
      quasi_identifiers: The columns whose combinations are classes.
      sensitive: The columns whose values are to differ within each.
      min_cell: Fewest units of a class that is not small.
    """

    quasi_identifiers: tuple[str, ...]
    sensitive: tuple[str, ...]
    min_cell: int
    _classes: dict[tuple[str | None, ...], tuple[Cell, tuple[set[str | None], ...]]] = field(
        default_factory=dict
    )

    def add(
        self, unit: int, quasi: tuple[str | None, ...], sensitive: tuple[str | None, ...]
    ) -> None:
        """Count one row; no value is a value of its own."""
        found = self._classes.get(quasi)
        if found is None:
            found = (Cell(self.min_cell), tuple(set() for _ in self.sensitive))
            self._classes[quasi] = found
        cell, values = found
        cell.add(unit)
        for seen, value in zip(values, sensitive, strict=True):
            seen.add(value)

    def measure(self) -> Anonymity | None:
        """The measures, None without a row or without quasi-identifiers."""
        if not self._classes or not self.quasi_identifiers:
            return None
        small = Cell(self.min_cell)
        for cell, _ in self._classes.values():
            if not cell.is_large:
                small.num_records += cell.num_records
                small.units |= cell.units
        smallest = min((cell for cell, _ in self._classes.values()), key=lambda c: c.num_records)
        return Anonymity(
            quasi_identifiers=self.quasi_identifiers,
            num_classes=len(self._classes),
            k=smallest.num_records if smallest.is_large else None,
            small_records=small.count,
            diversity={
                name: min(len(values[place]) for _, values in self._classes.values())
                for place, name in enumerate(self.sensitive)
            },
        )
