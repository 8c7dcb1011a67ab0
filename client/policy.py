"""Accept or refuse a plan: the rules of `site.toml`, before any person is asked.

A person approves a plan; these rules say which plans a person may approve. Each refusal is a rule
with a name, which stands in the site's log.
"""

from client.config import SiteConfig
from privacy.dp.calibrate import check_mechanism
from privacy.dp.guarantee import NOT_COVERED, guarantee_of
from privacy.dp.ledger import Ledger
from privacy.errors import (
    BudgetExceededError,
    ConfigError,
    FederationError,
    PlanRefusedError,
)
from privacy.masking.canaries import set_digest
from privacy.plan import RunPlan, SiteShare

_MODES = {
    "placeholder": "its type, such as [PERSON]",
    "surrogate": "a made-up value that this site's key decides",
    "redact": "[...]",
}
_LANGUAGES = {"en": "English", "zh": "Chinese"}
_LIST = "\n" + 13 * " "


class PlanRuleError(PlanRefusedError):
    """A rule of this site forbids the plan.

    Attributes:
      rule: Name of the rule.
    """

    def __init__(self, rule: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.rule = rule


def check_plan(plan: RunPlan, config: SiteConfig, federation: str) -> None:
    """Check a plan against the site's policy; the ledger is checked by `check_budget`.

    Raises:
      PlanRuleError: The first rule that forbids it.
    """
    policy, mechanism = config.policy, plan.mechanism
    if plan.federation != federation:
        raise PlanRuleError(
            "federation", f"expected a plan of {federation}, got one of {plan.federation}"
        )
    try:
        share = plan.share(config.site.name)
    except ConfigError as error:
        raise PlanRuleError("not-a-participant", str(error)) from None
    if share.num_units != config.data.num_units:
        raise PlanRuleError(
            "num-units",
            f"expected the declared {config.data.num_units} units, got {share.num_units}",
        )
    if mechanism.unit is not config.data.unit:
        raise PlanRuleError(
            "unit", f"expected protection of a {config.data.unit}, got a {mechanism.unit}"
        )
    if mechanism.target_epsilon > policy.max_epsilon_per_run:
        raise PlanRuleError(
            "max-epsilon-per-run",
            f"expected target_epsilon <= {policy.max_epsilon_per_run}, "
            f"got {mechanism.target_epsilon}",
        )
    if mechanism.noise_multiplier < policy.min_noise_multiplier:
        raise PlanRuleError(
            "min-noise-multiplier",
            f"expected noise_multiplier >= {policy.min_noise_multiplier}, "
            f"got {mechanism.noise_multiplier}",
        )
    if mechanism.delta >= 1 / share.num_units:
        raise PlanRuleError(
            "delta", f"expected delta < 1 / {share.num_units}, got {mechanism.delta}"
        )
    if plan.rounds.num_rounds > policy.max_rounds:
        raise PlanRuleError(
            "max-rounds",
            f"expected at most {policy.max_rounds} rounds, got {plan.rounds.num_rounds}",
        )
    if plan.rounds.min_sites < policy.min_sites:
        raise PlanRuleError(
            "min-sites",
            f"expected min_sites >= {policy.min_sites}, got {plan.rounds.min_sites}",
        )
    if plan.exits.max_update_bytes > policy.max_update_bytes:
        raise PlanRuleError(
            "max-update-bytes",
            f"expected at most {policy.max_update_bytes} bytes an update, "
            f"got {plan.exits.max_update_bytes}",
        )
    if plan.exposure.tracers > policy.max_tracers:
        raise PlanRuleError(
            "max-tracers",
            f"expected at most {policy.max_tracers} tracers, got {plan.exposure.tracers}",
        )
    if not {plan.base.name, plan.base.digest} & set(policy.allowed_bases):
        raise PlanRuleError(
            "allowed-bases",
            f"expected a base of {', '.join(policy.allowed_bases)}, got {plan.base.name}",
        )
    unmasked = sorted(set(policy.required_masking) - set(plan.masking.entity_types))
    if unmasked:
        raise PlanRuleError("required-masking", f"expected masking of {', '.join(unmasked)} too")
    if plan.canaries != set_digest():
        raise PlanRuleError(
            "canary-set",
            f"expected the planted examples of this version, {set_digest()}, got {plan.canaries}",
            hint="run the same version as the coordinator",
        )
    try:
        check_mechanism(mechanism, plan.rounds.num_rounds)
    except FederationError as error:
        # The plan's own numbers do not keep its promise.
        raise PlanRuleError("target-epsilon", str(error)) from None


def check_budget(plan: RunPlan, ledger: Ledger) -> None:
    """Check that the whole plan fits into what the population has left.

    Raises:
      PlanRuleError: Rule `budget`, `unit` or `delta`.
    """
    try:
        ledger.check_plan(plan)
    except BudgetExceededError as error:
        raise PlanRuleError("budget", str(error), hint=error.hint) from error
    except PlanRefusedError as error:
        raise PlanRuleError("ledger-terms", str(error), hint=error.hint) from error


def describe(plan: RunPlan) -> str:
    """The plan in words, for the person who decides."""
    mechanism, rounds = plan.mechanism, plan.rounds
    in_update = [
        sum(tensor.num_values for tensor in plan.update_tensors(number)) for number in (1, 2)
    ]
    trains = {
        "B": f"trains B, {in_update[0]:,} numbers in an update",
        "B-svd": f"trains B, factors made anew after each round, {in_update[0]:,} numbers in an"
        " update",
        "AB": f"trains B in odd rounds, A in even ones, {in_update[0]:,} and {in_update[1]:,}"
        " numbers in an update",
    }
    masked = ", ".join(name.replace("_", " ").lower() for name in plan.masking.entity_types)
    lines = [
        f"run          {plan.run}, federation {plan.federation}",
        f"plan         {plan.digest}",
        f"sites        {', '.join(_share(s) for s in plan.sites)}",
        f"base         {plan.base.name}, {plan.base.digest}",
        f"adapter      LoRA rank {plan.adapter.lora_rank} on {', '.join(plan.adapter.targets)},"
        f" {trains[plan.adapter.train]}",
        f"rounds       {rounds.num_rounds}, at least {rounds.min_sites} updates a round,"
        f" {rounds.deadline_s:g} s each at most",
        f"masked       {masked}",
        f"masked as    {_MODES[plan.masking.mode]}, by rules for {_languages(plan)}; at least"
        f" {plan.masking.recall_floor:g} of planted examples must be found, something masked in at"
        f" most {plan.masking.max_over_masking:g} of clean sentences",
        f"learnt       the {plan.text.answer} after the prompt,"
        f" {plan.text.max_tokens} tokens at most",
        f"privacy      each {mechanism.unit}: epsilon <= {mechanism.target_epsilon:g} over the run"
        f" at delta {mechanism.delta:g} (add or remove one {mechanism.unit})",
        f"mechanism    clip {mechanism.clip_norm:g}, noise multiplier"
        f" {mechanism.noise_multiplier:g}, sample rate {mechanism.sample_rate:g},"
        f" {mechanism.steps_per_round} steps a round",
        f"that means   {guarantee_of(mechanism, rounds.num_rounds).in_words()}",
        f"not covered  {_LIST.join(NOT_COVERED)}",
        f"tracers      {_tracers(plan)}",
        f"leaves here  one update a round, norm <= {plan.exits.max_update_norm:g},"
        f" <= {plan.exits.max_update_bytes:,} bytes; metrics:"
        f" {', '.join(plan.exits.metrics) or 'none'}",
    ]
    return "\n".join(lines)


def _tracers(plan: RunPlan) -> str:
    if not plan.exposure.tracers:
        return (
            "none: nobody can measure afterwards whether the adapter knows single texts by heart"
        )
    return (
        f"{plan.exposure.tracers} made-up units with secrets beside yours, to measure after the"
        " run what the adapter knows by heart"
    )


def _languages(plan: RunPlan) -> str:
    return " and ".join(_LANGUAGES.get(name, name) for name in plan.masking.languages)


def _share(share: SiteShare) -> str:
    rank = "" if share.lora_rank is None else f", rank {share.lora_rank}"
    return f"{share.name} ({share.num_units} units{rank})"
