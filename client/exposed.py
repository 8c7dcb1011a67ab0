"""Look for the secrets of this site's tracers in a run's adapter; let their ranks out if asked.

`measure` has the ranks computed in a room that reads no record, and writes what they say into the
site's folder. `release` puts them into the log, the same ones however often it is asked: they are
kept before they leave. No budget has a part in it. The ranks follow from the released adapter,
which is private, and from made-up secrets: post-processing, at no cost for any unit, neighbours as
in the plan. So they can be released where a ledger has nothing left.

The secrets are those that the site's own entry pinned before it trained. With another key they
would be others, nobody would have trained them, and every adapter would look safe: refused. The
same where no update of this site was added to an adapter of the run. At home that is not known:
`measure` says so. `release` asks the coordinator first, because an entry that the log refuses
would hold back all that this site says later.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Final, Self

from client.disclosure import AdapterTest, Say
from client.framing import frame
from client.home import file_digest
from client.link import Link
from client.room import make_worker
from client.tracers import digest, make_tracers
from client.worker import Worker
from privacy.audit.entry import Event, format_time
from privacy.dp import exposure
from privacy.errors import ConfigError, TrainingError

KIND: Final = "exposure"
# One set of ranks of a run's last adapter.
_NUMBER: Final = 1


class ExposureTest:
    """A look for tracers in the adapter of a test.

    Args:
      test: Which run, and its adapter.
      worker: Runs `client.exposure`; the default is a child process of it.
    """

    def __init__(self, test: AdapterTest, worker: Worker | None = None) -> None:
        self._test = test
        self._config_digest = file_digest(test.home.config_path)
        self._worker = worker or make_worker(test.home, "client.exposure", reads_records=False)
        journal, plan = test.journal, test.plan
        pinned = journal.about(Event.TRACERS_ADDED, plan.digest)
        # Without an update of this site nobody trained on its tracers: chance would look safe.
        sent = journal.about(Event.UPDATE_SENT, plan.digest)
        self._pinned = pinned[0].subjects["tracers"] if pinned and sent else ""
        # Ranks are said only where the coordinator confirmed it.
        self._is_added = bool(journal.about(Event.EXPOSURE_MEASURED, plan.digest, in_log=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.stop()

    @property
    def num_tracers(self) -> int:
        """How many this site trained on in the run; 0: there is nothing to look for."""
        return self._test.plan.exposure.tracers if self._pinned else 0

    @property
    def is_added(self) -> bool:
        """Whether an update of this site is known to be in an adapter; False: nobody here knows.

        Where it is false, `AdapterTest.has_arrived` tells whether the coordinator took one in
        time; it may still have refused it, and the round may have failed.
        """
        return self._is_added

    def _is_said(self) -> bool:
        return bool(self._test.journal.about(Event.EXPOSURE_MEASURED, self._test.plan.digest))

    def check(self, link: Link) -> None:
        """Ask the coordinator whether the log would take ranks; nothing is signed for it.

        Raises:
          OutcomeError: No update of this site is in an adapter of the run, the run is not over,
            or its last adapter is another one.
          TransportError: The coordinator cannot be reached.
        """
        plan = self._test.plan
        outcome = link.outcome(plan.digest)
        outcome.check_adapter(self._test.adapter)
        outcome.check_over(plan.rounds.num_rounds)
        outcome.check_added()
        self._is_added = True

    def measure(self, say: Say) -> list[int]:
        """Rank the secrets and write what it says to `exposure.json`; nothing leaves.

        Raises:
          ConfigError: There are no tracers, or their key is another one than in the run.
          TrainingError: The closed room cannot be had, or what runs in it failed.
        """
        test, plan = self._test, self._test.plan
        if not self.num_tracers:
            raise ConfigError("expected a run in which this site trained on tracers, got none")
        key = test.home.exposure_key()
        if digest(make_tracers(key, plan, test.site, num_secrets=1)) != self._pinned:
            raise ConfigError(
                f"expected the key in {test.home.exposure_key_path} as it was in the run",
                hint="restore it from a copy; another one has other secrets, which nobody trained",
            )
        header = {
            "site_config": str(test.home.config_path),
            "site_config_digest": self._config_digest,
            "plan": plan.canonical().decode(),
            "exposure_key": key.hex(),
        }
        request = frame(header, test.packed.astype("<f4").tobytes())
        answer = self._worker.call(request, timeout_s=test.limit_s, on_progress=say)
        try:
            ranks = list(json.loads(answer)["ranks"])
            exposure.check_ranks(ranks)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise TrainingError(
                f"expected ranks of the tracers' secrets, got {type(error).__name__}"
            ) from None
        if len(ranks) != self.num_tracers:
            raise TrainingError(f"expected {self.num_tracers} ranks, got {len(ranks)}")
        self._write(ranks)
        return ranks

    def _write(self, ranks: Sequence[int]) -> None:
        test = self._test
        test.home.write_json(
            test.home.exposure_path,
            {
                "site": test.site,
                "run": test.plan.run,
                "plan": test.plan.digest,
                "adapter": test.adapter,
                "tracers": self._pinned,
                "measured_at": format_time(datetime.now(UTC)),
                # Null: not known here. In no adapter, ranks look as chance does.
                "update_added": self.is_added or None,
                "ranks": list(ranks),
                "num_candidates": exposure.NUM_CANDIDATES,
                **asdict(exposure.summarise(ranks)),
            },
        )

    def release(self, link: Link, say: Say) -> list[int]:
        """Put the ranks into the log; those that were kept, where it was begun before.

        Raises:
          ConfigError: As `measure` and `check` say, or the log refuses what is sent.
          TrainingError: As `measure` says.
          TransportError: The coordinator cannot be reached; it goes on the next time.
        """
        journal, plan = self._test.journal, self._test.plan
        # What the log refused before holds back all behind it: better known before the work.
        journal.flush(link.append)
        if not self._is_said():
            self.check(link)
        kept = journal.get(plan.digest, KIND, _NUMBER)
        if kept is None:
            ranks = self.measure(say)
            content = json.dumps(ranks).encode()
            # A crash before this line measures anew; from here on these are the ranks.
            journal.put(plan.digest, KIND, _NUMBER, exposure.digest(ranks), content)
        else:
            ranks = list(json.loads(kept[0]))
        if not self._is_said():
            journal.record(
                Event.EXPOSURE_MEASURED,
                {"plan": plan.digest, "adapter": self._test.adapter, "tracers": self._pinned},
                run_id=plan.run_id,
                num_candidates=exposure.NUM_CANDIDATES,
                ranks=ranks,
            )
        journal.flush(link.append)
        journal.mark_sent(plan.digest, KIND, _NUMBER)
        return ranks
