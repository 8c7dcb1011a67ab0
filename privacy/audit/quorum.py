"""How many of a federation's sites must have cosigned a checkpoint, and the policy that says so.

What counts are operators, not sites: two sites whose machines one firm runs can be made to lie by
one person, so they count once; and the sites of whoever runs the log count for nothing. Which
sites belong together nobody can compute. A person says it, and whoever reads the policy judges it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from privacy.audit.note import NoteKey
from privacy.audit.policy import Policy
from privacy.errors import ConfigError

LOG_OPERATOR = "coordinator"
# Neither an operator's group nor a site has such a name, whatever they are called.
_ALL = "quorum/operators"
# The one word that a policy keeps for itself, and a site may be called so.
_RESERVED = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Quorum:
    """Whose cosignatures make a checkpoint believed.

    Attributes:
      needed: How many operators; 0 asks for nobody.
      operators: The sites of each operator, by its name; those of the log's own are left out.
    """

    needed: int
    operators: Mapping[str, tuple[str, ...]]

    @classmethod
    def over(
        cls, rule: str | int, sites: Iterable[str], operators: Mapping[str, str] | None = None
    ) -> "Quorum":
        """The quorum over enrolled sites.

        Args:
          rule: `majority`, `all`, `none`, or how many operators.
          sites: Names of the sites.
          operators: Who runs a site's machines, where it is not an operator of its own;
            `coordinator` for whoever runs the log.
        """
        grouped: dict[str, list[str]] = {}
        for site in sorted(sites):
            grouped.setdefault((operators or {}).get(site, site), []).append(site)
        grouped.pop(LOG_OPERATOR, None)
        if rule == "none":
            needed = 0
        elif isinstance(rule, int):
            needed = rule
        else:
            # Of nobody at all, one is missing: no sites are no witnesses.
            needed = max(1, len(grouped) if rule == "all" else len(grouped) // 2 + 1)
        return cls(needed=needed, operators={name: tuple(of) for name, of in grouped.items()})

    def num_operators(self, sites: Iterable[str]) -> int:
        """How many operators these sites stand for."""
        given = set(sites)
        return sum(not given.isdisjoint(of) for of in self.operators.values())

    def holds(self, sites: Iterable[str]) -> bool:
        """Whether the cosignatures of these sites are enough."""
        return self.num_operators(sites) >= self.needed

    def missing(self, sites: Iterable[str]) -> list[str]:
        """Sites of the operators that these sites do not stand for."""
        given = set(sites)
        return sorted(
            site for of in self.operators.values() if given.isdisjoint(of) for site in of
        )

    def policy(self, log: NoteKey, witnesses: Mapping[str, NoteKey]) -> str:
        """The text of a `tlog-policy` that asks for this quorum.

        Raises:
          ConfigError: Too few operators have a witness, or two sites announced one key.
        """
        known = {
            operator: [site for site in of if site in witnesses]
            for operator, of in self.operators.items()
        }
        known = {operator: of for operator, of in known.items() if of}
        if len(known) < self.needed:
            without = ", ".join(self.missing(witnesses)) or "no site at all"
            raise ConfigError(
                f"expected witnesses of {self.needed} operators, got {len(known)}; without a"
                f" witness's key: {without}",
                hint="bring cloister-site up to date there and start its agent: it announces one",
            )
        lines = [
            "# Whose cosignatures a checkpoint of this log must have (C2SP tlog-policy).",
            "# Each key stands in the log too, in an entry that the site signed. Count operators,",
            "# not lines: sites whose machines one party runs belong into one group.",
            f"log {log.vkey}",
            *(f"witness {_word(s)} {witnesses[s].vkey}" for of in known.values() for s in of),
        ]
        members = []
        for operator, of in known.items():
            if of == [operator]:
                members.append(_word(operator))
            else:
                members.append(f"operators/{operator}")
                lines.append(f"group operators/{operator} any {' '.join(map(_word, of))}")
        if self.needed:
            lines.append(f"group {_ALL} {self.needed} {' '.join(members)}")
        lines.append(f"quorum {_ALL if self.needed else 'none'}")
        text = "\n".join(lines) + "\n"
        # Nobody is handed a policy that no verifier reads.
        Policy.parse(text.encode())
        return text


def _word(site: str) -> str:
    return f"site/{site}" if site == _RESERVED else site
