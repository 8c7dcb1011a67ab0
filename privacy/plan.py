"""What everybody agreed to: one run of the federation, frozen, with one digest.

A plan is the contract between the sites and the coordinator. Its canonical form is JSON after RFC
8785 (sorted keys, one spelling a number), and its digest is the SHA-256 of those bytes. A site
approves a digest; every instruction, every entry of the log and every update names it; a changed
field is a changed digest and therefore another plan.

Options that cannot change the guarantee (device, threads, folders) are not here: each party keeps
its own.
"""

import hashlib
import math
import re
import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

import rfc8785
from pydantic import TypeAdapter, ValidationError

from model.config import AdapterConfig, BaseRef, ServerOptimizerConfig, TensorSpec
from model.factors import Mask, factor_of, factor_pairs, leading_mask, round_specs
from privacy.dp.config import MechanismConfig
from privacy.errors import ConfigError
from privacy.masking.canaries import set_digest
from privacy.masking.config import MaskingConfig
from privacy.pki.identity import check_name as check_name

MAX_PLAN_BYTES = 1_000_000
METRIC_KEYS = ("num_steps",)
# Of tracers at a site. Each takes a pass over a thousand candidates to rank, and the standard
# deviation of a mean exposure is 1.44 bits over the root of their number: 0.18 with 64.
MAX_TRACERS = 64
# Of a site's declared units. Tracers go into the same steps as records and teach nothing; more of
# them would be noise that nobody calibrated.
MAX_TRACER_SHARE = 0.05
# A secret has 8 digits, a space and an end, and some tokenizers take a token and more for each:
# one that is cut could not be told from others.
TRACER_ANSWER_TOKENS = 16
# The prompt of a tracer, a token a byte, and a beginning. Cut to the same few letters for all,
# secrets would compete behind one prompt, and an adapter would look as if it remembered nothing.
TRACER_PROMPT_TOKENS = 40
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    """How a masked record becomes tokens.

    Attributes:
      prompt_template: Text before the answer, with the field `{prompt}` exactly once and no other.
      answer: Which field is learnt, `label` or `completion`; it follows the prompt after one
        space.
      max_tokens: Longest sequence; a longer prompt loses its end, a longer answer too, at half of
        `max_tokens`.
    """

    prompt_template: str = "{prompt}\nLabel:"
    answer: Literal["label", "completion"] = "label"
    max_tokens: int = 128

    def __post_init__(self) -> None:
        """Refuse templates that lose or repeat the prompt."""
        try:
            fields = [
                name
                for _, name, _, _ in string.Formatter().parse(self.prompt_template)
                if name is not None
            ]
        except ValueError:
            fields = []
        if fields != ["prompt"]:
            raise ValueError(
                "expected prompt_template with {prompt} exactly once and no other field"
            )
        if not 16 <= self.max_tokens <= 8192:
            raise ValueError(f"expected 16 <= max_tokens <= 8192, got {self.max_tokens}")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """The step that a site takes along its private gradient; its state begins anew each round.

    Attributes:
      name: `adam` (Kingma & Ba 2014, betas 0.9 and 0.999) or `sgd`.
      learning_rate: Step size.
    """

    name: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        """Refuse a step that goes nowhere."""
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"expected learning_rate > 0, got {self.learning_rate}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundsConfig:
    """How many rounds, and when a round counts.

    Attributes:
      num_rounds: Rounds 1 to `num_rounds`; a site refuses every other number.
      min_sites: Updates without which a round is not aggregated.
      deadline_s: A round ends this long after its instructions went out, with the updates that
        came.
    """

    num_rounds: int
    min_sites: int
    deadline_s: float = 600.0

    def __post_init__(self) -> None:
        """Refuse rounds that could never count."""
        if self.num_rounds < 1:
            raise ValueError(f"expected num_rounds >= 1, got {self.num_rounds}")
        if self.min_sites < 1:
            raise ValueError(f"expected min_sites >= 1, got {self.min_sites}")
        if not (math.isfinite(self.deadline_s) and self.deadline_s > 0):
            raise ValueError(f"expected deadline_s > 0, got {self.deadline_s}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExitConfig:
    """What may leave a site in a reply; everything else stays.

    Attributes:
      max_update_norm: Largest L2 norm of an update, all tensors together.
      max_update_bytes: Largest serialized reply.
      metrics: Keys of the numbers that go along; only such as do not depend on records are
        offered.
    """

    max_update_norm: float
    max_update_bytes: int
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse bounds that bind nothing, and metrics that would tell of records."""
        if not (math.isfinite(self.max_update_norm) and self.max_update_norm > 0):
            raise ValueError(f"expected max_update_norm > 0, got {self.max_update_norm}")
        if self.max_update_bytes < 1:
            raise ValueError(f"expected max_update_bytes >= 1, got {self.max_update_bytes}")
        unknown = sorted(set(self.metrics) - set(METRIC_KEYS))
        if unknown:
            raise ValueError(
                f"expected metrics from {', '.join(METRIC_KEYS)}, got {', '.join(unknown)}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ExposureConfig:
    """Made-up units with secrets, to measure behind the run what the adapter remembers of them.

    Attributes:
      tracers: How many each site adds to its training units, behind masking; 0: none, and
        exposure cannot be measured.
    """

    tracers: int = 0

    def __post_init__(self) -> None:
        """Refuse more than are worth their room."""
        if not 0 <= self.tracers <= MAX_TRACERS:
            raise ValueError(f"expected 0 <= tracers <= {MAX_TRACERS}, got {self.tracers}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteShare:
    """A site that takes part.

    Attributes:
      name: As enrolled.
      num_units: Number of training units that the site has declared in public. It weights the
        site's updates and is the fixed denominator of its gradients, so that neither tells the
        true number.
      lora_rank: The site trains the first `lora_rank` columns of each B, rows of each A, and adds
        nothing to the others; None: all of the adapter's.
    """

    name: str
    num_units: int
    lora_rank: int | None = None

    def __post_init__(self) -> None:
        """Refuse a share that could not be named or weighted."""
        check_name(self.name)
        if self.lora_rank is not None and self.lora_rank < 1:
            raise ValueError(f"expected lora_rank >= 1 at {self.name}, got {self.lora_rank}")
        if self.num_units < 1:
            raise ValueError(f"expected num_units >= 1, got {self.num_units}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """One run: base, adapter, masking, privacy, rounds, sites, and what may leave a site.

    Attributes:
      version: Version of this format.
      federation: Name of the consortium.
      run: Name of the run.
      base: The base model, by digest.
      adapter: LoRA's numbers.
      tensors: Every adapter tensor in canonical (sorted) order; an update holds those that train
        in its round, in this order.
      initial_adapter: Digest of the adapter that round 1 starts from.
      text: How a masked record becomes tokens.
      masking: What is masked before that.
      canaries: Digest of the planted examples that each site must find before it trains; the ones
        of this version where nothing else is said.
      mechanism: The differentially private mechanism.
      optimizer: The sites' optimizer.
      server_optimizer: What the coordinator does with the mean of their updates.
      rounds: Number, quorum, deadline.
      exits: What may leave a site.
      exposure: Made-up units among the sites' own.
      sites: Who takes part, sorted by name.
    """

    version: Literal[1] = 1
    federation: str
    run: str
    base: BaseRef
    adapter: AdapterConfig
    tensors: tuple[TensorSpec, ...]
    initial_adapter: str
    text: TextConfig
    masking: MaskingConfig
    canaries: str = field(default_factory=set_digest)
    mechanism: MechanismConfig
    optimizer: OptimizerConfig
    server_optimizer: ServerOptimizerConfig = field(default_factory=ServerOptimizerConfig)
    rounds: RoundsConfig
    exits: ExitConfig
    exposure: ExposureConfig = field(default_factory=ExposureConfig)
    sites: tuple[SiteShare, ...]

    def __post_init__(self) -> None:
        """Refuse plans whose parts contradict each other."""
        check_name(self.federation)
        check_name(self.run)
        if not _DIGEST.fullmatch(self.initial_adapter):
            raise ValueError(
                f"expected initial_adapter of the form sha256:<hex>, got {self.initial_adapter!r}"
            )
        if not _DIGEST.fullmatch(self.canaries):
            raise ValueError(f"expected canaries of the form sha256:<hex>, got {self.canaries!r}")
        names = [site.name for site in self.sites]
        if not names or names != sorted(set(names)):
            raise ValueError("expected sites sorted by name, at least one, without repeats")
        if self.rounds.min_sites > len(names):
            raise ValueError(
                f"expected min_sites <= {len(names)} sites, got {self.rounds.min_sites}"
            )
        tensor_names = [tensor.name for tensor in self.tensors]
        if tensor_names != sorted(set(tensor_names)) or not self.trained_tensors:
            raise ValueError(
                "expected tensors sorted by name, without repeats, at least one of them trained"
            )
        if any(size < 1 for tensor in self.tensors for size in tensor.shape):
            raise ValueError("expected tensors of positive sizes")
        self._check_factors()
        self._check_exposure()

    def _check_exposure(self) -> None:
        """Check that tracers take little room, and that their secrets fit."""
        tracers = self.exposure.tracers
        if not tracers:
            return
        for site in self.sites:
            if tracers > MAX_TRACER_SHARE * site.num_units:
                raise ValueError(
                    f"expected at most {100 * MAX_TRACER_SHARE:g} % of the {site.num_units} units "
                    f"of {site.name} as tracers, got {tracers}"
                )
        frame = self.text.prompt_template.format(prompt="").encode()
        needed = TRACER_ANSWER_TOKENS + TRACER_PROMPT_TOKENS + len(frame)
        if self.text.max_tokens < needed:
            raise ValueError(
                f"expected max_tokens >= {needed} with tracers and this prompt_template, "
                f"got {self.text.max_tokens}"
            )

    def _check_factors(self) -> None:
        """Check what turns, new factors and ranks of sites build on; `B` alone needs nothing."""
        lora_rank = self.adapter.lora_rank
        for site in self.sites:
            if site.lora_rank is not None and site.lora_rank >= lora_rank:
                # The adapter's own rank is written as none, so that one plan has one digest.
                raise ValueError(
                    f"expected lora_rank of {site.name} below the adapter's {lora_rank}, "
                    f"got {site.lora_rank}"
                )
        if self.adapter.train == "B" and all(site.lora_rank is None for site in self.sites):
            return
        if self.adapter.train != "B" and self.server_optimizer.name != "mean":
            # Its moments belong to single values: of other factors, or of the other round's.
            raise ValueError(
                f"expected server_optimizer mean with train {self.adapter.train!r}, "
                f"got {self.server_optimizer.name!r}"
            )
        list(factor_pairs(self.tensors, lora_rank))
        for tensor in self.tensors:
            if tensor.trained != (factor_of(tensor.name) in self.adapter.trained_factors):
                raise ValueError(
                    f"expected exactly the factors {', '.join(self.adapter.trained_factors)} to "
                    f"train, got {tensor.name} wrong"
                )

    @property
    def trained_tensors(self) -> tuple[TensorSpec, ...]:
        """The tensors that sites train in some round."""
        return tuple(tensor for tensor in self.tensors if tensor.trained)

    def round_tensors(self, server_round: int) -> tuple[TensorSpec, ...]:
        """Every tensor in its order, `trained` where sites train it in this round."""
        return round_specs(self.tensors, self.adapter, server_round)

    def update_tensors(self, server_round: int) -> tuple[TensorSpec, ...]:
        """The tensors of an update of this round, in its order."""
        return tuple(tensor for tensor in self.round_tensors(server_round) if tensor.trained)

    def update_mask(self, site: str, server_round: int) -> Mask | None:
        """Which values of its update a site may change; None: all.

        Raises:
          ConfigError: The site takes no part.
        """
        rank = self.share(site).lora_rank
        if rank is None:
            return None
        return leading_mask(self.update_tensors(server_round), self.adapter.lora_rank, rank)

    def share(self, site: str) -> SiteShare:
        """The share of `site`.

        Raises:
          ConfigError: The site takes no part.
        """
        for share in self.sites:
            if share.name == site:
                return share
        raise ConfigError(f"expected one of the plan's sites, got {site!r}")

    def noise_variance(self, sites: Sequence[str]) -> float:
        """Variance that privacy's noise has in each value of the mean of these sites' updates.

        It follows from what the plan makes public, and holds where sites take plain gradient
        steps; Adam at the sites makes noise of another size, and 0 says that it is not known. A
        site of a lower rank, or an update that was scaled down to the bound, has less of it.

        Args:
          sites: Whose updates are averaged, by their declared units.
        """
        if self.optimizer.name != "sgd" or not sites:
            return 0.0
        mechanism = self.mechanism
        # A site of n units sends noise of deviation (rate * sigma * C) / (q * n) a step, and has
        # the weight n / total: the n cancels.
        total = sum(self.share(site).num_units for site in sites)
        deviation = self.optimizer.learning_rate * mechanism.noise_multiplier * mechanism.clip_norm
        one = (deviation / (mechanism.sample_rate * total)) ** 2
        return len(sites) * mechanism.steps_per_round * one

    def canonical(self) -> bytes:
        """The plan's bytes, JSON after RFC 8785."""
        return rfc8785.dumps(asdict(self))

    @property
    def digest(self) -> str:
        """`sha256:` and the SHA-256 of `canonical()` in hex."""
        return "sha256:" + hashlib.sha256(self.canonical()).hexdigest()

    @property
    def run_id(self) -> str:
        """The run's number in messages and entries, as digits.

        A plan is run once, so it follows from the digest.
        """
        return str(int(self.digest.removeprefix("sha256:")[:16], 16))

    @classmethod
    def parse(cls, content: bytes) -> "RunPlan":
        """Read a plan from its canonical bytes.

        Raises:
          ConfigError: Too long, not JSON, a field missing, unknown or impossible, or not in
            canonical form.
        """
        if len(content) > MAX_PLAN_BYTES:
            raise ConfigError(
                f"expected a plan of at most {MAX_PLAN_BYTES} bytes, got {len(content)}"
            )
        try:
            plan = _PLAN.validate_json(content, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the plan"
            raise ConfigError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from None
        if plan.canonical() != content:
            raise ConfigError(
                "expected a plan in canonical form (RFC 8785), with every field once and no other"
            )
        return plan


_PLAN: TypeAdapter[RunPlan] = TypeAdapter(RunPlan)
