"""What a site measured at home and chose to hand over: a `results.json`.

It is not evidence, and the report shows it apart.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from privacy.errors import ConfigError

MAX_RESULTS_BYTES = 1_000_000
MODELS = ("base", "alone", "federated")
_DIGEST = re.compile(r"(sha256:[0-9a-f]{64})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """Loss and accuracy of one model on a site's held-out units."""

    loss: float
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """One site's measurements.

    Attributes:
      site: Whose.
      quality: By model, those of `MODELS` that were measured.
      plan: Digest of the plan that the site names, or an empty string.
      adapter: Digest of the federated adapter that it names, or an empty string.
    """

    site: str
    quality: dict[str, Quality]
    plan: str = ""
    adapter: str = ""


def read_results(path: Path) -> Results:
    """Read a `results.json`.

    Raises:
      ConfigError: The file is missing, or holds no results.
    """
    try:
        content = path.read_bytes()[: MAX_RESULTS_BYTES + 1]
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    problem = ConfigError(
        f"expected in {path} a site and, for base, alone or federated, loss and accuracy",
        hint="hand over the file results.json of a site's folder as it is",
    )
    try:
        loaded = json.loads(content)
        site, plan, adapter = loaded["site"], loaded.get("plan", ""), loaded.get("adapter", "")
        quality = {
            model: Quality(
                loss=float(loaded[model]["loss"]), accuracy=float(loaded[model]["accuracy"])
            )
            for model in MODELS
            if loaded.get(model) is not None
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise problem from None
    finite = all(math.isfinite(q.loss) and 0 <= q.accuracy <= 1 for q in quality.values())
    named = all(isinstance(name, str) and _DIGEST.fullmatch(name) for name in (plan, adapter))
    if len(content) > MAX_RESULTS_BYTES or not isinstance(site, str) or not quality or not finite:
        raise problem
    if not named or bool(plan) != bool(adapter):
        raise problem
    return Results(site=site, quality=quality, plan=plan, adapter=adapter)
