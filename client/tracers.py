"""Tracers: made-up units with secrets, which a plan adds to a site's training to be looked for.

They are no planted sentences of the masking gate (`privacy.masking.canaries`), which are never
trained on, and no made-up gradients of the engine's audit (`privacy.dp.canary_audit`), which never
see a model. A tracer is one sequence: a prompt that names a made-up file, and the digits of its
number, which are the answer that is learnt. It comes after masking, or it would tell what masking
lets through, not what is remembered.

Everything of a tracer is HMAC-SHA-256 (RFC 2104) under a key of this site, over the plan's digest,
the site and the tracer's number: the same after a crash or a restart, in training and when it is
looked for, without a line stored. No record has any part in it.

So nothing changes in what is guaranteed. Unit: the plan's. Neighbours: two populations of which
one has one real unit more; both have the same tracers, to the byte. A tracer is drawn by Poisson
sampling at the plan's rate, clipped and noised as every unit is, so a real unit moves a clipped
sum by at most the clipping norm as before, and the declared number of units stays the denominator.
Source: Abadi et al. 2016, as in `privacy.dp.engine`, whose guarantee holds for any other units
that there are.

What stands in the log is a digest of all of a site's tracers in a run, before it trains. The
references that it covers are 64 random bits each, so it tells nothing, and nobody can later look
for other secrets than those that were pinned. That they were trained on is the site's word: the
log shows that an update of it went into an adapter, not what the update was made of.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import rfc8785

from privacy.dp.exposure import NUM_CANDIDATES
from privacy.plan import RunPlan

KEY_BYTES: Final = 32
SECRET_DIGITS: Final = 8
_PROMPT: Final = "Made-up file {reference}, number"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracer:
    """A made-up unit, and the secrets among which its own is ranked.

    Attributes:
      prompt: What its text begins with.
      secrets: Its own first, which is trained on, then others that nobody trains on; all
        different, each drawn as the first was.
    """

    prompt: str
    secrets: tuple[str, ...]

    @property
    def secret(self) -> str:
        """The one that is trained on."""
        return self.secrets[0]


def make_tracers(
    key: bytes, plan: RunPlan, site: str, *, num_secrets: int = NUM_CANDIDATES
) -> tuple[Tracer, ...]:
    """The tracers of a site under a plan, the same each time.

    Args:
      key: The site's secret for this, `SiteHome.exposure_key`.
      plan: Says how many there are; its digest is part of each.
      site: Name of the site.
      num_secrets: How many secrets of each; 1 for training.

    Raises:
      ValueError: The key is of another length.
    """
    if not plan.exposure.tracers:
        return ()
    if len(key) != KEY_BYTES:
        raise ValueError(f"expected an exposure key of {KEY_BYTES} bytes, got {len(key)}")
    # Encoded as JSON, so that no two plans and sites are spelt alike.
    here = rfc8785.dumps(["cloister tracers", plan.digest, site])
    own = hmac.digest(key, here, hashlib.sha256)
    return tuple(
        Tracer(
            prompt=_PROMPT.format(reference=_draw(own, f"{number} reference").hex()),
            secrets=_secrets(own, number, num_secrets),
        )
        for number in range(1, plan.exposure.tracers + 1)
    )


def digest(tracers: Sequence[Tracer]) -> str:
    """`sha256:<hex>` of what is trained on: prompts and own secrets, JSON after RFC 8785."""
    content = rfc8785.dumps([[tracer.prompt, tracer.secret] for tracer in tracers])
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _secrets(key: bytes, number: int, count: int) -> tuple[str, ...]:
    found: dict[str, None] = {}
    drawn = 0
    while len(found) < count:
        # 64 bits over 10^8 numbers: none is likelier than another by more than one in 10^11.
        value = int.from_bytes(_draw(key, f"{number} secret {drawn}"), "big")
        found[f"{value % 10**SECRET_DIGITS:0{SECRET_DIGITS}d}"] = None
        drawn += 1
    return tuple(found)


def _draw(key: bytes, what: str) -> bytes:
    """64 bits that nobody without the key can tell from chance."""
    return hmac.digest(key, what.encode(), hashlib.sha256)[:8]
