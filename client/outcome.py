"""What came of a run, asked of the coordinator before this site signs what depends on it.

A site knows what it sent. Whether that was in time, which adapter it stands in, and whether the
run is over, is known where the log is kept. An entry that the log refuses holds back all of a
site's later ones: so nothing is reserved, kept or signed before this fits.

Nobody has to believe the answer. The log checks the entry again, and so does every auditor; who
answers wrongly here gets an entry that is refused, which `cloister-site journal` shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from privacy.errors import ConfigError


class OutcomeError(ConfigError):
    """The log would not take what this site would have to sign."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What the coordinator's log has of a run.

    Attributes:
      adapter: Digest of the adapter released last; empty before the first.
      server_round: The round that it came of; 0 before the first.
      is_finished: Whether the log says that the run is over.
      num_added: Released adapters that an update of this site was added to.
    """

    adapter: str
    server_round: int
    is_finished: bool
    num_added: int

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """The coordinator's answer.

        Raises:
          OutcomeError: It is none.
        """
        try:
            adapter, is_finished = said["adapter"], said["finished"]
            server_round, num_added = said["server_round"], said["num_added"]
        except (KeyError, TypeError):
            raise _unreadable() from None
        if not isinstance(adapter, str) or not isinstance(is_finished, bool):
            raise _unreadable()
        # A bool is an int to Python, and no number to us.
        if type(server_round) is not int or type(num_added) is not int:
            raise _unreadable()
        return cls(
            adapter=adapter,
            server_round=server_round,
            is_finished=is_finished,
            num_added=num_added,
        )

    def check_adapter(self, adapter: str) -> None:
        """Check that this is the adapter which the run released last.

        Raises:
          OutcomeError: It is another, or the run released none.
        """
        if not self.adapter:
            raise OutcomeError(
                "expected a run that released an adapter, got one in which no round came to one",
                hint="what is here is the adapter that the run began with: there is nothing in it"
                " to be told from",
            )
        if self.adapter != adapter:
            raise OutcomeError(
                f"expected the adapter that the run released last, {self.adapter[:23]}, got"
                f" {adapter[:23]}",
                hint="ask the coordinator which one it released",
            )

    def check_over(self, num_rounds: int) -> None:
        """Check that no further adapter of the run can come.

        Raises:
          OutcomeError: One can.
        """
        if not self.is_finished and self.server_round < num_rounds:
            raise OutcomeError(
                f"expected a run that is over, got one whose newest adapter is of round"
                f" {self.server_round} of {num_rounds}",
                hint="try again when the coordinator says that the run is over",
            )

    def check_added(self) -> None:
        """Check that an update of this site is in an adapter of the run.

        Raises:
          OutcomeError: None is: it came late, was refused, or its round failed.
        """
        if self.num_added < 1:
            raise OutcomeError(
                "expected an update of this site in an adapter of the run, got none: it came too"
                " late, was refused, or its round failed, so nobody trained on its tracers",
                hint="nothing was signed and nothing left; ranks would look as chance does",
            )


def _unreadable() -> OutcomeError:
    return OutcomeError(
        "expected the coordinator to say what came of the run, got something else",
        hint="the coordinator may run an older version; nothing was signed",
    )
