"""Find personal data in a text. Fails closed: a detector that cannot detect is never built.

What is found is taken out and what is left is searched again, until nothing is found: a number
that a neighbour hid is seen once the neighbour is gone. Masking a masked text changes nothing:
a placeholder that stands in a text already is to the rules the same sign as what was taken out.

A model reads the text beside the rules, and never before them: a word that it takes, a name or
not, may be the cue of a number. So what the rules alone mask is masked with any model too.
"""

import re
from typing import TYPE_CHECKING

from privacy.errors import MaskingError
from privacy.masking.config import MaskingConfig
from privacy.masking.mask import Span, merge, unmasked_segments

if TYPE_CHECKING:
    from privacy.masking.presidio import Analyzer

__all__ = ["Detector", "Span"]

# Published test numbers and reserved names: nobody's data.
_CANARIES = {
    "ACCOUNT_NUMBER": "Account number: 4471-220953",
    "AGE": "a man 94 years old",
    "CREDIT_CARD": "4111 1111 1111 1111",
    "CUSTOMER_ID": "customer id C-483920",
    "CVV": "cvv 737",
    "DATE": "14 March 2019",
    "DEVICE_ID": "serial number SN-4829-113",
    "EMAIL": "jane.doe@example.org",
    "HEALTH_PLAN_NUMBER": "member id: WXH-48291",
    "IBAN": "GB82 WEST 1234 5698 7654 32",
    "IP_ADDRESS": "192.0.2.44",
    "LICENCE_NUMBER": "license number D482-9113",
    "LOCATION": "12 Elm Street",
    "PASSPORT": "passport number X4829113",
    "PASSWORD": "password: hunter2!x",
    "PERSON": "Jane Doe",
    "PHONE": "(202) 555-0143",
    "RECORD_NUMBER": "MRN 00482913",
    "RESIDENT_ID": "11010519491231002X",
    "ROUTING_NUMBER": "routing number 021000021",
    "SOCIAL_CREDIT_CODE": "91350100M000100Y43",
    "SORT_CODE": "sort code 12-34-56",
    "SSN": "078-05-1120",
    "SWIFT": "SWIFT code DEUTDEFF500",
    "URL": "https://www.example.org/a?b=c",
    "VEHICLE": "license plate 7ABC123",
}
# What a rule for one language needs otherwise: the same kinds of number in its own words.
_CANARIES_OF = {
    "zh": {
        "ACCOUNT_NUMBER": "账号4471220953",
        "AGE": "九十四岁",
        "CUSTOMER_ID": "客户号C-483920",
        "CVV": "安全码737",
        "DATE": "二〇一九年三月十四日",
        "DEVICE_ID": "序列号SN-4829113",
        "HEALTH_PLAN_NUMBER": "医保卡号A48291137",
        "LICENCE_NUMBER": "执业证号D4829113",
        "LOCATION": "浙江省杭州市西湖区文三路12号",
        "PASSPORT": "护照号X4829113",
        "PASSWORD": "密码hunter2!x",
        "PERSON": "患者张建国",
        "PHONE": "13800138000",
        "RECORD_NUMBER": "病历号00482913",
        "ROUTING_NUMBER": "联行号102100099996",
        "SORT_CODE": "分行代码12-34-56",
        "SSN": "社会安全号078-05-1120",
        "SWIFT": "SWIFT代码DEUTDEFF500",
        "VEHICLE": "京A12345",
    },
}
_ON_FILE = {"en": "Seen: {} on file.", "zh": "记录: {}。"}
# Stands where something was taken out. No rule matches it; a text's own is read as its neighbour.
_GAP, _NO_GAP = "\ue000", "\ue001"
# Characters that a field's name is read together with; cues reach no further.
_BEHIND_FIELD = 200
_SPACE = re.compile(r"\s")


class Detector:
    """Finds the entity types of a plan in any text."""

    def __init__(self, config: MaskingConfig, *, ner: str = "none") -> None:
        """Build the recognisers and check that each finds a planted canary.

        Args:
          config: What is masked, in which languages.
          ner: A model whose findings join those of the rules, as `privacy.masking.ner` reads it.

        Raises:
          MaskingError: A recogniser cannot be built or is blind.
        """
        try:
            # Presidio imports spaCy: only who masks pays for it.
            from privacy.masking.models import load_model

            if ner == "bundled" and "en" not in config.languages:
                raise MaskingError(
                    f"the bundled model reads English, the plan asks for {config.languages}",
                    hint='set [masking] ner = "none" in site.toml',
                )
            # First the model: it needs all of spaCy, Presidio does without torch.
            model = load_model(ner)
            from privacy.masking.presidio import Analyzer

            types, languages = config.entity_types, config.languages
            self._rules = Analyzer(types, languages)
            self._model = None if model is None else Analyzer(types, languages, model)
        except (ImportError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise MaskingError(
                f"cannot build the recognisers: {type(error).__name__}",
                hint="reinstall the pinned dependencies; nothing is trained without masking",
            ) from error
        self._languages = config.languages
        self._entity_types = list(config.entity_types)
        self._check_canaries()

    def find(self, text: str, field: str = "") -> list[Span]:
        """The personal data in `text`: spans in order, none overlapping another.

        With the name of a field, what is found only behind `name: ` is found too, in the words
        at the beginning that a name can say something about.

        Placeholders such as `[PHONE]` that stand in `text` already are left alone.

        Raises:
          MaskingError: A recogniser failed on this text.
        """
        kept = _Kept(text)
        lead = f"{field.replace('_', ' ').replace(_GAP, _NO_GAP)}: " if field else ""
        if self._model is None:
            spans = self._until_nothing(lead, kept)
        else:
            spans = self._beside(self._model, lead, kept)
        return sorted(spans, key=lambda span: span.start)

    def _until_nothing(self, lead: str, kept: "_Kept") -> list[Span]:
        """Take out what the rules find, until they find nothing."""
        spans: list[Span] = []
        while found := _behind(self._rules, lead, kept.text):
            spans += kept.take_out(found)
        return spans

    def _beside(self, model: "Analyzer", lead: str, kept: "_Kept") -> list[Span]:
        """Take out what rules and model find, each in the same text, until neither finds any."""
        spans: list[Span] = []
        while True:
            # Each of its own copy: what the model takes out first would hide from the rules.
            found = self._until_nothing(lead, kept.copy())
            found += kept.copy().take_out(_behind(model, lead, kept.text))
            if not found:
                return spans
            found = merge(found)
            kept.cut(found)
            spans += found

    def _check_canaries(self) -> None:
        for language in self._languages:
            planted = _CANARIES | _CANARIES_OF.get(language, {})
            for entity_type in self._entity_types:
                text = _ON_FILE[language].format(planted[entity_type])
                if self._model is not None:
                    # A model that cannot read stops here, not at the first record.
                    _results(self._model, text)
                if entity_type not in {span.entity_type for span in _results(self._rules, text)}:
                    raise MaskingError(
                        f"the recogniser of {entity_type} does not find its planted example",
                        hint="reinstall the pinned dependencies; nothing is trained unmasked",
                    )


def _behind(analyzer: "Analyzer", lead: str, text: str) -> list[Span]:
    """What is found in `text` alone and what is found in it behind `lead`."""
    spans = _analyze(analyzer, text)
    if not lead or not text:
        return spans
    # Cut between words: a half of a word may look like a name.
    cut = _SPACE.search(text, _BEHIND_FIELD)
    for span in _analyze(analyzer, lead + text[: cut.start() if cut else None]):
        start, end = max(span.start - len(lead), 0), span.end - len(lead)
        if start < end:
            spans.append(Span(start, end, span.entity_type, span.score))
    return merge(spans)


def _analyze(analyzer: "Analyzer", text: str) -> list[Span]:
    spans = _results(analyzer, text)
    if _GAP in text:
        spans = [part for span in spans for part in _without_gaps(text, span)]
    return merge(spans)


def _results(analyzer: "Analyzer", text: str) -> list[Span]:
    try:
        results = analyzer.analyze(text)
    except (ValueError, TypeError, IndexError, KeyError, RuntimeError, OSError) as error:
        # `from None`: such an exception may quote the text that it failed on.
        raise MaskingError(f"a recogniser failed with {type(error).__name__}") from None
    return [Span(r.start, r.end, r.entity_type, r.score) for r in results]


class _Kept:
    """What is left of a text: its stretches that were not taken out, a gap between each two.

    Attributes:
      text: The stretches and the gaps; gaps side by side are one.
    """

    def __init__(self, text: str) -> None:
        self._whole = text.replace(_GAP, _NO_GAP)
        self._keep(list(unmasked_segments(text)))

    def copy(self) -> "_Kept":
        """The same stretches, to take others out of."""
        other = _Kept.__new__(_Kept)
        other._whole, other._stretches, other.text = self._whole, self._stretches, self.text
        return other

    def cut(self, taken: list[Span]) -> None:
        """Remove spans of the whole text, in order, each inside one stretch."""
        stretches: list[tuple[int, int]] = []
        pending = iter(taken)
        span = next(pending, None)
        for begin, end in self._stretches:
            while span and span.end <= end:
                stretches.append((begin, span.start))
                begin = span.end
                span = next(pending, None)
            stretches.append((begin, end))
        self._keep([(begin, end) for begin, end in stretches if begin < end])

    def take_out(self, found: list[Span]) -> list[Span]:
        """Remove spans of `text`; return them as spans of the whole text."""
        taken: list[Span] = []
        stretches: list[tuple[int, int]] = []
        offset = 1 if self.text.startswith(_GAP) else 0
        pending = iter(found)
        span = next(pending, None)
        for begin, end in self._stretches:
            shift = begin - offset
            while span and span.end <= end - shift:
                taken.append(
                    Span(span.start + shift, span.end + shift, span.entity_type, span.score)
                )
                stretches.append((begin, span.start + shift))
                begin = span.end + shift
                span = next(pending, None)
            stretches.append((begin, end))
            offset = end - shift + 1
        self._keep([(begin, end) for begin, end in stretches if begin < end])
        return taken

    def _keep(self, stretches: list[tuple[int, int]]) -> None:
        self._stretches = stretches
        text = _GAP.join(self._whole[begin:end] for begin, end in stretches)
        if stretches and stretches[0][0] > 0:
            text = _GAP + text
        if stretches and stretches[-1][1] < len(self._whole):
            text += _GAP
        self.text = text


def _without_gaps(text: str, span: Span) -> list[Span]:
    parts = []
    start = span.start
    for piece in text[span.start : span.end].split(_GAP):
        if piece:
            parts.append(Span(start, start + len(piece), span.entity_type, span.score))
        start += len(piece) + 1
    return parts
