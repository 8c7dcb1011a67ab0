"""From a site's records to token ids: the raw record's one door.

Connectors are read here and nowhere else. Before the first record is read, planted examples are
masked, and nothing is read where too few are found. What leaves is masked: token ids to train on,
and the text of held-out records to evaluate on. Either the whole file is read or none of it is
used.
"""

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING

from client.cohort import Cohort, Survey
from client.config import SiteConfig
from client.connectors import feed
from client.connectors.compose import (
    check_there,
    compose,
    judged_identifiers,
    no_list,
    open_connector,
    refuse_dropped,
    texts,
)
from client.connectors.record import Record
from client.gate import pass_canaries
from client.sources import AnyData, DataSection
from privacy.dp.config import Unit
from privacy.errors import ConfigError
from privacy.masking.canaries import Measured
from privacy.masking.masker import Masker
from privacy.masking.surrogates import SurrogateKey
from privacy.plan import RunPlan

if TYPE_CHECKING:
    # Torch and transformers take seconds to load, and who looks at records needs neither.
    from transformers import PreTrainedTokenizerBase

    from model.tokenizer import Example

HELD_OUT_SHARE = 0.2
# The table of site.toml that says where the records are; there is one.
SOURCE = "data"
MIN_HOLDOUT_KEY_BYTES = 16
JUDGED_ROWS = 200
# A name that so many objects have is a name of their form, and no text of one of them.
_SHARED_BY = 11


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedUnit:
    """All training examples of one unit; they are clipped together.

    Attributes:
      unit_id: The site's own identifier. It never leaves the site.
      examples: Masked and tokenised records, at least one.
    """

    unit_id: str
    examples: "tuple[Example, ...]"


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutRecord:
    """A held-out record, masked, as text.

    Attributes:
      unit_id: The unit that it belongs to; a unit with several records stands here several times.
      prompt: Masked text, without the plan's template.
      answer: What the plan learns, `label` or `completion`, masked.
      label: The record's label, masked.
    """

    unit_id: str
    prompt: str
    answer: str
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskingStats:
    """What masking did. Counts depend on records: they stay at the site.

    Attributes:
      num_records: Records read.
      num_masked: Number of spans replaced in the fields that are used, by entity type; every type
        of the plan is a key.
      measured: Recall and over-masking of planted sentences, which may leave, and of the site's
        own notes, which may not.
    """

    num_records: int
    num_masked: dict[str, int]
    measured: Measured = field(default_factory=Measured)


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteDataset:
    """What training and evaluation see of a site's records.

    Attributes:
      train: Units to train on, by `unit_id`.
      held_out: Records of the other units, about one unit in five.
      labels: Label candidates: the labels seen in training, sorted.
      masking: What masking did.
    """

    train: tuple[TokenizedUnit, ...]
    held_out: tuple[HeldOutRecord, ...]
    labels: tuple[str, ...]
    masking: MaskingStats

    @property
    def num_units(self) -> int:
        """True number of training units; it stays here, `data.num_units` is what was declared."""
        return len(self.train)


def load(
    config: SiteConfig,
    plan: RunPlan,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    holdout_key: bytes,
    surrogate_key: SurrogateKey | None = None,
    progress: Callable[[int], None] | None = None,
) -> SiteDataset:
    """Read, mask, split and tokenise this site's records.

    `holdout_key` is this site's secret. It alone decides which units are held out, the same in
    every run, and nobody without it can tell which. `surrogate_key` is another secret, for plans
    whose mode is `surrogate`. `progress` is called with the number of records done, after each.

    Rows with the same identifier are one unit: they are clipped together and held out together,
    so that neither a copy nor a second note weakens the guarantee.

    Raises:
      ConfigError: The file or a record in it cannot be used, or the plan protects another unit.
      MaskingError: Personal data cannot be masked, too few planted examples are found, or too
        many clean sentences masked.
      ValueError: The key is too short to be secret.
    """
    if len(holdout_key) < MIN_HOLDOUT_KEY_BYTES:
        raise ValueError(
            f"expected a holdout_key of at least {MIN_HOLDOUT_KEY_BYTES} bytes, "
            f"got {len(holdout_key)}"
        )
    if plan.mechanism.unit != config.data.unit:
        raise ConfigError(
            f"expected a plan that protects each {config.data.unit}, got {plan.mechanism.unit}",
            hint="data.unit in site.toml says whom this site protects",
        )
    # What is neither learnt nor scored is not read any further.
    used = ("prompt", "label", plan.text.answer)
    one_way = Masker(plan.masking, surrogate_key, ner=config.masking.ner)
    measured = pass_canaries(one_way, config, plan)
    masker = _RecordMasker(one_way, plan.masking.entity_types, used)
    train: dict[str, list[Example]] = {}
    held_out: list[HeldOutRecord] = []
    labels: set[str] = set()
    num_records = 0
    for record in _records(config):
        unit_id = record.record_id if config.data.unit == Unit.RECORD else record.unit_id
        masked = masker.mask(record, subject=unit_id)
        prompt, label, answer = masked["prompt"], masked["label"], masked[plan.text.answer]
        if is_held_out(unit_id, holdout_key):
            held_out.append(
                HeldOutRecord(unit_id=unit_id, prompt=prompt, answer=answer, label=label)
            )
        else:
            train.setdefault(unit_id, []).append(_encode(tokenizer, prompt, answer, plan))
            labels.add(label)
        num_records += 1
        if progress is not None:
            progress(num_records)
    if not train:
        raise ConfigError(
            f"{config.data.place}: expected at least one unit to train on, "
            f"got none in {num_records} records",
            hint="one unit in five is held out for evaluation",
        )
    return SiteDataset(
        train=tuple(
            TokenizedUnit(unit_id=unit_id, examples=tuple(examples))
            for unit_id, examples in train.items()
        ),
        held_out=tuple(held_out),
        labels=tuple(sorted(labels)),
        masking=MaskingStats(
            num_records=num_records, num_masked=masker.num_masked, measured=measured
        ),
    )


def probe(config: SiteConfig, *, limit: int) -> int:
    """Read the first `limit` records, forget them, and return how many there were.

    Raises:
      ConfigError: The source or a record in it cannot be used, or it holds no record.
    """
    records = islice(open_connector(config.data).records(), limit)
    num_records = sum(1 for _ in compose(config.data, records))
    if num_records == 0:
        raise ConfigError(f"{config.data.place}: expected at least one record, got none")
    return num_records


def describe(config: SiteConfig) -> str:
    """What the connector sees of the source: format, columns, and which no text holds.

    Here a person looks, before training, so here the first records' content is judged.

    Raises:
      ConfigError: The source cannot be reached or is not what site.toml says, a template or
        `text_columns` names a column that looks like an identifier, or `{*}` has no list: then
        the hint is one.
    """
    data = config.data
    connector = open_connector(data, every_column=True)
    seen = connector.check()
    first = _Judged(data, islice(connector.records(), JUDGED_ROWS))
    if data.takes_all and not data.text_columns:
        raise no_list(data, first.advice())
    first.check()
    if first.dropped:
        seen += f"; left out of texts: {', '.join(first.dropped)}"
    absent = [name for name in data.text_columns if first.rows and name not in first.columns]
    if absent:
        seen += f"; in none of the first {len(first.rows)} records: {', '.join(absent)}"
    return seen


def survey(config: SiteConfig, *, progress: Callable[[int], None] | None = None) -> Cohort:
    """Read all records, forget them, and return what they are like; no small count is in it.

    Where `{*}` has no list yet it is counted with the one that is proposed.

    Raises:
      ConfigError: The source or a record in it cannot be used, or it holds too few units.
    """
    data = config.data
    if data.missing == "refuse":
        # What is missing is to be counted, not to end the count.
        data = data.model_copy(update={"missing": "skip"})
    records = open_connector(data, every_column=True).records()
    first = _Judged(data, islice(records, JUDGED_ROWS))
    proposed: tuple[str, ...] = ()
    if data.takes_all and not data.text_columns:
        proposed = first.proposed()
        data = data.model_copy(update={"text_columns": proposed})
    first.check()
    counted = Survey(data)
    for number, (record, fields) in enumerate(texts(data, chain(first.records, records)), 1):
        # Whatever the guarantee protects: twelve rows of one person are no crowd.
        counted.add(record.unit_id, record.fields, fields)
        if progress is not None:
            progress(number)
    return counted.finish(first.dropped, proposed)


class _Judged:
    """The first records of a source, and what they say of its columns, for a person at home."""

    def __init__(self, data: AnyData, records: Iterator[Record]) -> None:
        self._data = data
        self.records = list(records)
        self.rows = [record.fields for record in self.records]
        self.columns = tuple(dict.fromkeys(name for row in self.rows for name in row))
        self.dropped = judged_identifiers(data, self.columns, self.rows)

    def check(self) -> None:
        """Check that what site.toml names is there and that nothing speaks against it.

        Raises:
          ConfigError: A column is not there, or looks like a direct identifier.
        """
        if self.rows and not isinstance(self._data, DataSection):
            check_there(self._data, self.columns)
        refuse_dropped(self._data, self.dropped)

    def proposed(self) -> tuple[str, ...]:
        """What `{*}` may stand for: no identifier, and nothing that is learnt."""
        taken = {*self.dropped, *self._data.learnt_columns}
        left = tuple(name for name in self.columns if name not in taken)
        if not isinstance(self._data, DataSection):
            return left
        # An object may be called after a person: only names that many have are shown.
        return tuple(name for name in left if sum(name in row for row in self.rows) >= _SHARED_BY)

    def advice(self) -> str:
        """The line of site.toml that says so."""
        names = self.proposed()
        if not names:
            return "name the columns in [data]: text_columns = [...]; none can be proposed"
        listed = ", ".join(json.dumps(name, ensure_ascii=False) for name in names)
        held = f" (left out: {', '.join(self.dropped)})" if self.dropped else ""
        return f"look at it and put it in [data]: text_columns = [{listed}]{held}"


# Where connections are forbidden the records come from outside; asked for once a process.
_feed = feed.inherited()


def _records(config: SiteConfig) -> Iterator[Record]:
    """The site's records with prompt, completion and label, unmasked."""
    if _feed is not None:
        return _feed.records(config.data.place)
    return compose(config.data, open_connector(config.data).records())


def source_rows(config: SiteConfig, name: str) -> Iterator[dict[str, object]]:
    """The raw records of a source, for the operator's own preview and masked copy at home.

    Raises:
      ConfigError: There is no such source, or a record in it cannot be used.
    """
    if name != SOURCE:
        raise ConfigError(
            f"expected source {SOURCE}, the only one that site.toml has, got {name[:60]!r}",
            hint="a file that is not in site.toml is masked with --input",
        )
    for record in _records(config):
        yield {"id": record.record_id, "unit_id": record.unit_id, **record.fields}


def is_held_out(unit_id: str, holdout_key: bytes) -> bool:
    """Whether a unit is kept for evaluation, with all its records: about one in five.

    HMAC-SHA-256 (RFC 2104) of the identifier under the site's key, as a fraction of its range.
    """
    digest = hmac.digest(holdout_key, unit_id.encode(), hashlib.sha256)
    return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64


class _RecordMasker:
    """Masks records and counts what it replaced; a label, which repeats, is masked once."""

    def __init__(self, masker: Masker, entity_types: tuple[str, ...], used: Sequence[str]) -> None:
        self._masker = masker
        self._used = frozenset(used)
        self._labels: dict[str, tuple[str, Counter[str]]] = {}
        self.num_masked = dict.fromkeys(entity_types, 0)

    def mask(self, record: Record, *, subject: str) -> dict[str, str]:
        """The record's fields that are used, masked; dates of one `subject` move together."""
        masked = {}
        for name, text in record.fields.items():
            if name not in self._used or text is None:
                continue
            if name == "label" and text in self._labels:
                masked[name], counts = self._labels[text]
            else:
                # A label is the same for every subject, or it would be as many labels.
                done = self._masker.mask(text, subject=None if name == "label" else subject)
                masked[name] = done.text
                counts = Counter(span.entity_type for span in done.spans)
                if name == "label":
                    self._labels[text] = masked[name], counts
            for entity_type, count in counts.items():
                self.num_masked[entity_type] += count
        return masked


def _encode(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, answer: str, plan: RunPlan
) -> "Example":
    from model.tokenizer import encode

    try:
        return encode(tokenizer, prompt, answer, plan.text)
    except ValueError as error:
        raise ConfigError(f"text.prompt_template: {error}") from None
