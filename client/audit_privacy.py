"""`cloister-site audit-privacy`: can the claim of a plan be refuted from what would leave?

The base of the plan, its adapter and the engine of this installation release what a site would
send, of made-up units only: no record is read, no budget is spent, nothing leaves. From the
releases it is guessed which units took part (`privacy.dp.canary_audit`). Two kinds of releases
are audited, because a claim above about 3.5 cannot be refuted with a thousand made-up units:

- `plan`: as many steps as the plan has, with its noise and its sample rate;
- `sharp`: one step of everybody, with noise for an epsilon of 2, which the guesses can refute.

Where the factors of the adapter take turns, each is audited by itself. The command refutes where
any audit fires, so each of n has a confidence of 1 - 0.05 / n: the verdict is right at 95 %.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import rfc8785
import torch

from client.adapted import load_adapted
from client.config import ComputeSection, SiteConfig
from client.home import SiteHome
from model.adapter import set_trained
from privacy import console
from privacy.dp.calibrate import Event, calibrate_noise
from privacy.dp.canary_audit import CONFIDENCE, CanaryAudit, audit_one_run
from privacy.errors import ConfigError
from privacy.plan import RunPlan

SHARP_EPSILON = 2.0
SHARP_DELTA = 1e-5
_DIGEST = "sha256:"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Audited:
    """One audit: which releases, of which factor, and what came of it."""

    kind: str
    server_round: int
    releases: Event
    delta: float
    confidence: float
    found: CanaryAudit

    def to_json(self) -> dict[str, object]:
        """For a program."""
        return {
            "releases": self.kind,
            "server_round": self.server_round,
            "noise_multiplier": self.releases.noise_multiplier,
            "sample_rate": self.releases.sample_rate,
            "num_steps": self.releases.num_steps,
            "delta": self.delta,
            "claim": self.found.claim,
            "lower_bound": self.found.lower_bound,
            "confidence": self.confidence,
            "highest": self.found.highest,
            "could_fire": self.found.highest > self.found.claim,
            "num_canaries": self.found.num_canaries,
            "num_guesses": self.found.num_guesses,
            "num_right": self.found.num_right,
            "fires": self.found.fires,
        }

    def line(self) -> str:
        """For a person."""
        found = self.found
        state = "REFUTED" if found.fires else "not refuted"
        if found.highest <= found.claim:
            state += f": {found.num_canaries} canaries refute at most {found.highest:.2f}"
        return (
            f"{self.kind:5}  round {self.server_round}  {self.releases.num_steps} steps  "
            f"claim {found.claim:.3f}  at least {found.lower_bound:.3f} at "
            f"{100 * self.confidence:g}% ({found.num_right} of {found.num_guesses} right)  {state}"
        )


def run(args: argparse.Namespace) -> int:
    """Audit, print, and return 1 where a claim is refuted.

    Raises:
      ConfigError: Plan, base or settings cannot be used.
      TrainingError: The base cannot be trained privately.
    """
    home = SiteHome(args.home)
    plan = read_plan(args.plan, home)
    config = home.config() if home.config_path.exists() else None
    compute = config.compute if config else ComputeSection()
    torch.set_num_threads(args.threads or compute.threads)
    folder = args.base or (config.base.folder if config else None)
    model, _ = load_adapted(plan, folder, compute)
    rank = args.rank or _rank(plan, config)
    done = []
    audits = list(_audits(plan, args.steps))
    confidence = 1 - (1 - CONFIDENCE) / len(audits)
    for kind, server_round, releases, delta in audits:
        set_trained(model, plan.round_tensors(server_round))
        console.say(
            f"auditing {kind}: {releases.num_steps} steps on {args.canaries} made-up units"
        )
        try:
            found = audit_one_run(
                model,
                releases,
                delta=delta,
                num_canaries=args.canaries,
                clip_norm=plan.mechanism.clip_norm,
                sensitivity=args.sensitivity,
                rank=rank,
                confidence=confidence,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from None
        audited = _Audited(
            kind=kind,
            server_round=server_round,
            releases=releases,
            delta=delta,
            confidence=confidence,
            found=found,
        )
        done.append(audited)
        if not args.json:
            console.result(audited.line())
    fires = any(audited.found.fires for audited in done)
    if args.json:
        console.result_json(
            {
                "plan": plan.digest,
                "base": plan.base.digest,
                "fires": fires,
                "confidence": CONFIDENCE,
                "audits": [audited.to_json() for audited in done],
            }
        )
    return console.FAILED if fires else console.OK


def _audits(plan: RunPlan, max_steps: int) -> Iterator[tuple[str, int, Event, float]]:
    """Kind, round, releases and delta of each audit."""
    mechanism = plan.mechanism
    all_steps = plan.rounds.num_rounds * mechanism.steps_per_round
    num_steps = min(all_steps, max_steps)
    if num_steps < all_steps:
        console.say(f"note: {num_steps} of the plan's {all_steps} steps; the claim is of these")
    planned = Event(mechanism.noise_multiplier, mechanism.sample_rate, num_steps)
    noise = calibrate_noise(SHARP_EPSILON, SHARP_DELTA, 1.0, 1)
    for server_round in (1, 2) if plan.adapter.train == "AB" else (1,):
        yield "plan", server_round, planned, mechanism.delta
        yield "sharp", server_round, Event(noise, 1.0, 1), SHARP_DELTA


def _rank(plan: RunPlan, config: SiteConfig | None) -> int | None:
    """As this site trains; the plan's where it takes no part."""
    for share in plan.sites:
        if config and share.name == config.site.name:
            return share.lora_rank
    return None


def read_plan(name: str, home: SiteHome) -> RunPlan:
    """The approved plan with a digest, or that of a file.

    The file holds a plan, or the entry in which a log has it, as `cloister-audit show --json`
    prints it.

    Raises:
      ConfigError: There is none, or more than one.
    """
    if name.startswith(_DIGEST):
        return _approved(name, home)
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(
            f"cannot read {name}: {reason}",
            hint="name the digest of an approved plan, or a file that holds a plan",
        ) from None
    plans = {plan.digest: plan for plan in _plans(text, name)}
    if len(plans) != 1:
        raise ConfigError(
            f"expected one plan in {name}, got {len(plans)}",
            hint="write one with: cloister-audit show LOG --event plan-offered --json",
        )
    return next(iter(plans.values()))


def _approved(digest: str, home: SiteHome) -> RunPlan:
    # Without settings there is no site: its journal would be made here.
    home.config()
    journal = home.journal()
    try:
        plan = journal.approved_plan(digest)
    finally:
        journal.close()
    if plan is None:
        raise ConfigError(
            f"expected an approved plan, got {digest}",
            hint="approve it first, or name a file that holds it",
        )
    return plan


def _plans(text: str, name: str) -> Iterator[RunPlan]:
    try:
        found = [json.loads(text)]
    except ValueError:
        try:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            raise ConfigError(f"expected JSON in {name}, got something else") from None
    for value in found:
        if isinstance(value, dict) and isinstance(value.get("predicate"), dict):
            value = value["predicate"].get("plan")
        if isinstance(value, dict):
            yield RunPlan.parse(rfc8785.dumps(value))
