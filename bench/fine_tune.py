"""What a few hundred records buy: minutes, size of the adapter, and what it learnt.

One site alone, with noise for the epsilon asked for, on the first records of a party's file.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.quality import Study
from model.adapter import read_adapter
from model.tensors import write_adapter_folder


@dataclass(frozen=True, kw_only=True)
class Row:
    """One party, fine-tuned on its first records.

    Attributes:
      case: Name of the party.
      records: Training units.
      epsilon: As asked for; `inf` without privacy.
      minutes: Of training, all rounds together.
      adapter_mb: The adapter on disk, in MB of 10^6 bytes.
      loss_before: Held-out label loss of the base, in nats.
      loss: The same of the adapter.
      accuracy_before: Of the base, by scoring the label candidates.
      accuracy: The same of the adapter.
    """

    case: str
    records: int
    epsilon: str
    minutes: float
    adapter_mb: float
    loss_before: float
    loss: float
    accuracy_before: float
    accuracy: float


def rows(study: Study, num_records: Sequence[int], epsilon: str) -> Iterator[Row]:
    """Every party with every number of records that it has.

    Raises:
      RuntimeError: No party has so many.
    """
    found = False
    for party in study.parties:
        study.forget()
        before = study.measure(party)
        for count in num_records:
            if count > len(party.units):
                continue
            found = True
            begun = time.monotonic()
            study.train({party.name: party.units[:count]}, epsilon)
            minutes = (time.monotonic() - begun) / 60
            after = study.measure(replace(party, units=party.units[:count]))
            yield Row(
                case=party.name,
                records=count,
                epsilon=epsilon,
                minutes=round(minutes, 2),
                adapter_mb=round(_adapter_bytes(study) / 1e6, 2),
                loss_before=round(before[0], 4),
                loss=round(after[0], 4),
                accuracy_before=round(before[1], 4),
                accuracy=round(after[1], 4),
            )
    if not found:
        raise RuntimeError(f"expected a party of at least {min(num_records)} units, got none")


def line(row: Row) -> str:
    """A row for a person."""
    return (
        f"{row.case:20} {row.records:6} {row.epsilon:>4}  {row.minutes:6.2f} min  "
        f"{row.adapter_mb:5.2f} MB  loss {row.loss_before:.2f} -> {row.loss:.2f}  "
        f"accuracy {row.accuracy_before:.3f} -> {row.accuracy:.3f}"
    )


def _adapter_bytes(study: Study) -> int:
    packed = read_adapter(study.model).pack(trained_only=False)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "adapter"
        write_adapter_folder(written, study.specs, packed, study.recipe.adapter, "nano")
        return sum(path.stat().st_size for path in written.iterdir())
