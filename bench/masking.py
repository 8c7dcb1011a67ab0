"""How much personal data masking finds in labelled sets, what it takes needlessly, how fast.

Nothing is tuned on what is reported: each set is cut in two by template or source, and only the
half `test` is reported. A gold span counts for our type; labels that are no personal data here
(organisations, titles, ages under 90, dates without day and month) are neither right nor wrong.
"""

import gzip
import hashlib
import importlib
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

Gold = tuple[int, int, str]
Find = Callable[[str], Sequence[Gold]]
IGNORED = "-"
_LABELS = {
    "PERSON": "PERSON PER person NAME PER.NAM person_name",
    "LOCATION": "LOCATION GPE ADDRESS STREET_ADDRESS ZIP_CODE GEOGRAPHIC_LOCATION LOC location "
    "GPE.NAM LOC.NAM",
    "DATE": "DATE DATE_TIME FECHAS date",
    "PHONE": "PHONE_NUMBER FAX_NUMBER NUMERO_TELEFONO NUMERO_FAX",
    "EMAIL": "EMAIL_ADDRESS CORREO_ELECTRONICO",
    "SSN": "US_SSN SOCIAL_SECURITY_NUMBER",
    "CREDIT_CARD": "CREDIT_CARD",
    "IBAN": "IBAN_CODE",
    "IP_ADDRESS": "IP_ADDRESS",
    "URL": "DOMAIN_NAME",
    "LICENCE_NUMBER": "US_DRIVER_LICENSE CERTIFICATE_LICENSE_NUMBER "
    "ID_TITULACION_PERSONAL_SANITARIO",
    "RECORD_NUMBER": "MEDICAL_RECORD_NUMBER UNIQUE_IDENTIFIER ID_SUJETO_ASISTENCIA "
    "ID_CONTACTO_ASISTENCIAL",
    "HEALTH_PLAN_NUMBER": "HEALTH_PLAN_BENEFICIARY_NUMBER ID_ASEGURAMIENTO",
    "ACCOUNT_NUMBER": "ACCOUNT_NUMBER",
    "AGE": "AGE",
}
_TYPE_OF = {label: kind for kind, labels in _LABELS.items() for label in labels.split()}
NAMED = ("PERSON", "LOCATION")
_MONTH = re.compile(
    r"(?<![a-z])(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|ene|abr|dic)|"
    r"[0-9][^0-9]+[0-9]|agosto",
    re.IGNORECASE,
)
_TITLE = re.compile(r"(?:mr|mrs|ms|miss|dr|prof)\.?(?: +|$)", re.IGNORECASE)
# Of the Spanish set only numbers and codes are asked for: the rules know no Spanish.
_SPANISH = frozenset(
    {"DATE", "PHONE", "EMAIL", "LICENCE_NUMBER", "RECORD_NUMBER", "HEALTH_PLAN_NUMBER"}
)


@dataclass(frozen=True, slots=True)
class Text:
    """A text, what is personal in it, and by what it is drawn to one half."""

    text: str
    gold: tuple[Gold, ...]
    group: str


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """A set with labels; `languages` are those whose rules search it."""

    name: str
    languages: tuple[str, ...]
    types: frozenset[str] | None = None


LABELLED = (
    LabelledSet("pii_presidio", ("en",)),
    LabelledSet("pii_clinical_queries", ("en",)),
    LabelledSet("pii_meddocan", ("en",), _SPANISH),
    LabelledSet("pii_ner_en", ("en",)),
    LabelledSet("nlupp_banking", ("en",)),
    LabelledSet("pii_ner_zh", ("zh",)),
)
UNLABELLED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("mtsamples", ("en",)),
    ("cfpb_complaints", ("en",)),
    ("zh_ehr_ner", ("zh",)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One measurement. What does not apply is None.

    Attributes:
      set: Name of the set.
      half: Which half of it.
      system: `cloister`, `bundled` (the same with the model that comes with it) or `presidio`,
        the latter with its own rules and no model.
      entity_type: Type, `ALL`, `STRUCTURED` (all but names and places), `WITH_DIGIT` (those of
        them whose label holds a digit, as every number, code and date does) or `TEXT` (no labels).
      spans: Labelled spans.
      precision: Share of found spans of the type that touch a labelled span of any type.
      recall: Share of labelled spans of which at least half the letters and digits are masked.
      character_recall: Share of their letters and digits that are masked.
      fully_masked: Share of labelled spans of which every letter and digit is masked.
      over_masked: Share of letters and digits masked in text that is taken to hold nothing
        personal.
      characters_per_cpu_s: Speed.
    """

    set: str
    half: str
    system: str
    entity_type: str
    spans: int | None = None
    precision: float | None = None
    recall: float | None = None
    character_recall: float | None = None
    fully_masked: float | None = None
    over_masked: float | None = None
    characters_per_cpu_s: float | None = None


def half_of(group: str) -> str:
    """`dev` or `test`, by a hash: the same on every machine."""
    return "test" if hashlib.sha256(group.encode()).digest()[0] % 2 else "dev"


def read(folder: Path, name: str, half: str) -> list[Text]:
    """The texts of a set's half; none where the set is missing."""
    path = folder / name / f"{name}.jsonl.gz"
    if not path.exists():
        return []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = [text_of(name, json.loads(line)) for line in lines]
    return [text for text in texts if half_of(f"{name}/{text.group}") == half]


def text_of(name: str, row: dict[str, object]) -> Text:
    """A row of a set as a text with its labels."""
    text = str(row["text"])
    if name == "nlupp_banking":
        slots = row.get("slots") or []
        spans = [(s[1][0], s[1][1], s[0]) for s in slots]  # type: ignore[attr-defined]
        group = str(row["fold"])
    else:
        spans = [(s[0], s[1], s[2]) for s in row.get("spans") or []]  # type: ignore[attr-defined]
        group = str(row.get("template") or row.get("company") or row["id"])
        if name == "pii_presidio":
            group = str(row.get("masked") or row.get("template"))
    return Text(text, tuple(_gold(text, *span) for span in spans), group)


def _gold(text: str, start: int, end: int, label: str) -> Gold:
    kind = _TYPE_OF.get(label, IGNORED)
    found = text[start:end]
    title = _TITLE.match(found) if kind == "PERSON" else None
    if title:
        start, found = start + title.end(), found[title.end() :]
    if kind == "DATE" and not (_MONTH.search(found) and re.search("[0-9]", found)):
        kind = IGNORED
    if kind == "AGE" and not any(int(n) > 89 for n in re.findall("[0-9]+", found)):
        kind = IGNORED
    if not any(character.isalnum() for character in found):
        kind = IGNORED
    return start, end, kind


def measure(
    name: str,
    half: str,
    system: str,
    texts: Iterable[Text],
    find: Find,
    types: frozenset[str] | None = None,
) -> Iterator[Row]:
    """One row a type, one of all, one of the structured ones, one of those with a digit."""
    tally: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        found = find(text.text)
        covered = bytearray(len(text.text))
        for start, end, _ in found:
            covered[start:end] = b"\1" * (end - start)
        for start, end, kind in text.gold:
            if kind == IGNORED or (types and kind not in types):
                continue
            letters = [i for i in range(start, end) if text.text[i].isalnum()]
            masked = sum(covered[i] for i in letters)
            keys = _keys(kind)
            if kind not in NAMED and any(text.text[i].isdigit() for i in letters):
                keys = (*keys, "WITH_DIGIT")
            for key in keys:
                tally[key]["spans"] += 1
                tally[key]["characters"] += len(letters)
                tally[key]["masked"] += masked
                tally[key]["found"] += masked * 2 >= len(letters)
                tally[key]["fully"] += masked == len(letters)
        for start, end, kind in found:
            right = any(start < g_end and g_start < end for g_start, g_end, _ in text.gold)
            for key in _keys(kind):
                tally[key]["predicted"] += 1
                tally[key]["right"] += right
    for kind, counts in sorted(tally.items()):
        if counts["spans"]:
            yield Row(
                set=name,
                half=half,
                system=system,
                entity_type=kind,
                spans=counts["spans"],
                precision=counts["right"] / counts["predicted"] if counts["predicted"] else None,
                recall=counts["found"] / counts["spans"],
                character_recall=counts["masked"] / counts["characters"],
                fully_masked=counts["fully"] / counts["spans"],
            )


def _keys(kind: str) -> tuple[str, ...]:
    return (kind, "ALL") if kind in NAMED else (kind, "ALL", "STRUCTURED")


def over_masking(name: str, half: str, system: str, texts: Sequence[Text], find: Find) -> Row:
    """The share that is masked of a set without labels, and how fast."""
    letters = masked = 0
    began = time.process_time()
    found = [find(text.text) for text in texts]
    seconds = time.process_time() - began
    for text, spans in zip(texts, found, strict=True):
        letters += sum(map(str.isalnum, text.text))
        masked += sum(sum(map(str.isalnum, text.text[start:end])) for start, end, _ in spans)
    return Row(
        set=name,
        half=half,
        system=system,
        entity_type="TEXT",
        over_masked=masked / letters,
        characters_per_cpu_s=sum(len(text.text) for text in texts) / seconds,
    )


def rows(folder: Path, *, half: str = "test", say: Callable[[str], None]) -> Iterator[Row]:
    """Every measurement on the sets that `folder` holds and on made-up notes.

    Raises:
      RuntimeError: None of the sets is there.
    """
    names = [labelled.name for labelled in LABELLED] + [name for name, _ in UNLABELLED]
    if not any((folder / name / f"{name}.jsonl.gz").exists() for name in names):
        raise RuntimeError(f"expected one of the sets in {folder}, found none")
    systems = {
        languages: (
            _cloister(languages),
            *([_cloister(languages, "bundled")] if "en" in languages else []),
            _presidio(languages),
        )
        for languages in _LANGUAGES
        if _has_rules(languages)
    }
    for labelled in LABELLED:
        texts = read(folder, labelled.name, half)
        if not texts or labelled.languages not in systems:
            say(f"skipped {labelled.name}: {'no rules' if texts else 'not in the folder'}")
            continue
        for system, find in systems[labelled.languages]:
            yield from measure(labelled.name, half, system, texts, find, labelled.types)
    for name, languages in UNLABELLED:
        texts = read(folder, name, half)
        if not texts or languages not in systems:
            say(f"skipped {name}: {'no rules' if texts else 'not in the folder'}")
            continue
        for system, find in systems[languages]:
            # Presidio takes minutes for all of it: its speed shows on a part.
            part = texts[:_PART] if system == "presidio" else texts
            yield over_masking(name, half, system, part, find)
    for name, languages, texts in _made_up(half):
        if languages not in systems:
            say(f"skipped {name}: no rules")
            continue
        for system, find in systems[languages]:
            yield from measure(name, half, system, texts, find)


_LANGUAGES: tuple[tuple[str, ...], ...] = (("en",), ("zh",))
_PART = 60
_NUM_NOTES = 800


def _made_up(half: str) -> Iterator[tuple[str, tuple[str, ...], list[Text]]]:
    """Notes by form: a form is in one half."""
    from bench import masking_notes_en

    forms = masking_notes_en.forms()
    for unseen in (False, True):
        made = masking_notes_en.notes(_NUM_NOTES, 7, unseen=unseen)
        texts = [Text(text, spans, forms[i % len(forms)]) for i, (text, spans) in enumerate(made)]
        name = "notes_en_unseen" if unseen else "notes_en"
        yield name, ("en",), [t for t in texts if half_of(t.group) == half]
    try:
        module = importlib.import_module("bench.masking_notes_zh")
    except ImportError:
        return
    made = module.notes(_NUM_NOTES, 7)
    texts = [Text(text, tuple(spans), str(i)) for i, (text, spans) in enumerate(made)]
    yield "notes_zh", ("zh",), [text for text in texts if half_of(text.group) == half]


def _has_rules(languages: tuple[str, ...]) -> bool:
    from privacy.masking.recognisers import LANGUAGE_RULES

    return set(languages) <= set(LANGUAGE_RULES)


def _cloister(languages: tuple[str, ...], ner: str = "none") -> tuple[str, Find]:
    from privacy.masking.config import MaskingConfig
    from privacy.masking.detect import Detector

    detector = Detector(MaskingConfig(languages=languages), ner=ner)
    name = "cloister" if ner == "none" else ner
    return name, lambda text: [(s.start, s.end, s.entity_type) for s in detector.find(text)]


def _presidio(languages: tuple[str, ...]) -> tuple[str, Find]:
    """Presidio as it comes, with no model: all rules that it has for the language."""
    import tldextract.tldextract
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NoOpNlpEngine

    # Its recogniser of URLs asks the network for a list of domains: the one it brings will do.
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=())
    language = languages[0]
    engine = NoOpNlpEngine(models=[{"lang_code": language, "model_name": "none"}])
    engine.load()
    registry = RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language])
    # It only hands on what a model found.
    registry.remove_recognizer("SpacyRecognizer")
    analyzer = AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[language])

    def find(text: str) -> list[Gold]:
        found = analyzer.analyze(text=text, language=language)
        return [(f.start, f.end, _TYPE_OF.get(f.entity_type, f.entity_type)) for f in found]

    return "presidio", find


def line(row: Row) -> str:
    """A row for the terminal."""
    head = f"{row.set:22} {row.system:9} {row.entity_type:18}"
    if row.spans is None:
        speed = f"{row.characters_per_cpu_s:,.0f} characters/s"
        return f"{head} over-masked {row.over_masked:.4f}  {speed}"
    precision = "    -" if row.precision is None else f"{row.precision:.3f}"
    return (
        f"{head} {row.spans:6}  precision {precision}  recall {row.recall:.3f}  "
        f"characters {row.character_recall:.4f}  whole {row.fully_masked:.3f}"
    )
