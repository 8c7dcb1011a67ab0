"""What tests of a run's adapter share: a federation after its runs, stand-ins for closed rooms.

Fixtures of the same name stand in `conftest.py`; a module brings its own `world`.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from client.disclosure import AdapterTest
from client.exposed import ExposureTest
from client.framing import unframe
from client.link import Link
from privacy import wire
from privacy.audit.entry import Entry, Event, parse_entry
from privacy.dp import membership
from privacy.errors import ReplyRefusedError
from privacy.plan import RunPlan
from server import coordinator
from tests.federation.world import Federation, Site

SECRET = 271_828
RANKS = [2, 600, 1024]


class Cut(Exception):  # noqa: N818  no error: the power is gone
    """The machine stops here."""


def cut(*_: object, **__: object) -> None:
    """Stop the machine."""
    raise Cut


class Attacker:
    """Stands in for the closed room; `exact` are its exact figures."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.spoil: Callable[[dict[str, Any]], object] = lambda found: found
        self.before: Callable[[], None] = lambda: None
        members, others = [SECRET] + [10] * 21, [5] * 22
        self.exact = {
            f"{attack}_{group}": cells
            for attack in membership.EDGES
            for group, cells in (("members", members), ("others", others))
        }

    def call(
        self,
        request: bytes,
        *,
        timeout_s: float,
        on_progress: Callable[[Mapping[str, object]], None],
    ) -> bytes:
        """Answer as `client.leakage` would."""
        self.requests.append(request)
        self.before()
        attack = asdict(membership.attack([2.0] * 400, [1.0] * 100))
        found = {
            "num_members": 400,
            "num_others": 100,
            "attacks": dict.fromkeys(membership.EDGES, attack),
            "counts": self.exact,
        }
        return json.dumps(self.spoil(found)).encode()

    def stop(self) -> None:
        """Nothing is to be stopped."""


class Ranker:
    """Stands in for the room that ranks; what it answers may be spoilt."""

    def __init__(self) -> None:
        self.headers: list[dict[str, Any]] = []
        self.answer: object = {"ranks": RANKS}
        self.before: Callable[[], None] = lambda: None

    def call(
        self,
        request: bytes,
        *,
        timeout_s: float,
        on_progress: Callable[[Mapping[str, object]], None],
    ) -> bytes:
        """Answer as `client.exposure` would."""
        self.headers.append(unframe(request)[0])
        self.before()
        return json.dumps(self.answer).encode()

    def stop(self) -> None:
        """Nothing is to be stopped."""


@contextlib.contextmanager
def federation_of(folder: Path, names: str) -> Iterator[Federation]:
    """A federation that serves, with sites of these names whose agents run."""
    with Federation(folder).serving() as made:
        for number, name in enumerate(names):
            made.enrol(name, float(number + 1)).start()
        yield made


@contextlib.contextmanager
def running(world: Federation) -> Iterator[None]:
    """Run the agents of all sites meanwhile."""
    for site in world.sites.values():
        site.start()
    try:
        yield
    finally:
        for site in world.sites.values():
            site.stop()


@contextlib.contextmanager
def refusing(*places: tuple[str, int]) -> Iterator[None]:
    """Have the coordinator refuse these sites' updates in these rounds, whatever they are."""
    accepted = coordinator._Rounds.accepted

    def accept(
        rounds: coordinator._Rounds,
        server_round: int,
        site: str,
        reply: wire.Reply,
        num_bytes: int,
    ) -> None:
        if (site, server_round) in places:
            raise ReplyRefusedError("norm-bound", "expected a shorter one")
        accepted(rounds, server_round, site, reply, num_bytes)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(coordinator._Rounds, "accepted", accept)
        yield


def told(site: Site, event: Event, plan: RunPlan | None = None) -> list[Entry]:
    """What the site's journal has of an event, of all plans or of one."""
    journal = site.home.journal()
    try:
        entries = [parse_entry(line) for line, _ in journal.lines()]
    finally:
        journal.close()
    return [
        entry
        for entry in entries
        if entry.event is event and (plan is None or entry.subjects.get("plan") == plan.digest)
    ]


def release_counts(
    site: Site, attacker: Attacker, plan: RunPlan, epsilon: float = 0.5
) -> dict[str, tuple[int, ...]]:
    """What the command does for noised counts."""
    with AdapterTest(site.home, plan.digest, attacker) as test:  # type: ignore[arg-type]
        number, event = test.prepare(epsilon)
        link = Link(site.home.channel())
        try:
            return test.release(number, event, link, lambda _: None)
        finally:
            link.close()


def release_ranks(site: Site, ranker: Ranker, plan: RunPlan) -> list[int]:
    """What the command does for ranks."""
    with (
        AdapterTest(site.home, plan.digest) as test,
        ExposureTest(test, ranker) as traced,  # type: ignore[arg-type]
    ):
        link = Link(site.home.channel())
        try:
            return traced.release(link, lambda _: None)
        finally:
            link.close()
