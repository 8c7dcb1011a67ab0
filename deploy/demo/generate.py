"""Make the demo's data: `python -m deploy.demo.generate --out DIR`.

Notes of two hospitals and messages to two banks, all invented, as `.jsonl.gz`: one file a site,
`{id, source, prompt, completion, label, unit_id}`. The label can be learnt from the text. Planted
in the text is what must not leave a site: made-up e-mail addresses, telephone, card, account and
record numbers, dates and web addresses, from ranges that are reserved for examples or have no
owner. The same seed makes the same bytes.
"""

import argparse
import gzip
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from privacy.masking.checksums import luhn_holds

NUM_ROWS = 400
# One person in ten has more than one row.
SECOND_ROW_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class DemoSite:
    """One institution: its name, whom it protects, and how often each of its topics comes up."""

    name: str
    source: str
    unit: str
    population: str
    shares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Topic:
    """A label, what it is about, and the words that give it away."""

    label: str
    complaints: tuple[str, ...]
    findings: tuple[str, ...]
    completions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A record, and the personal data that was planted in it."""

    record: dict[str, str]
    planted: tuple[str, ...]


SITES = (
    DemoSite(
        name="hospital_a",
        source="generated_notes",
        unit="patient",
        population="patients",
        shares=(0.3, 0.25, 0.15, 0.15, 0.1, 0.05),
    ),
    DemoSite(
        name="hospital_b",
        source="generated_notes",
        unit="patient",
        population="patients",
        shares=(0.05, 0.1, 0.15, 0.15, 0.25, 0.3),
    ),
    DemoSite(
        name="bank_a",
        source="generated_messages",
        unit="customer",
        population="customers",
        shares=(0.3, 0.25, 0.15, 0.15, 0.1, 0.05),
    ),
    DemoSite(
        name="bank_b",
        source="generated_messages",
        unit="customer",
        population="customers",
        shares=(0.05, 0.1, 0.15, 0.15, 0.25, 0.3),
    ),
)

DEPARTMENTS = (
    Topic(
        label="cardiology",
        complaints=(
            "chest pain on exertion",
            "palpitations at night",
            "pressure behind the breastbone",
            "swollen ankles and shortness of breath lying flat",
        ),
        findings=(
            "ST depression in the lateral leads",
            "an irregular pulse and a loud systolic murmur",
            "raised troponin",
            "an ejection fraction of 38 percent",
        ),
        completions=("suspected angina", "atrial fibrillation", "heart failure"),
    ),
    Topic(
        label="neurology",
        complaints=(
            "throbbing headache with flashing lights",
            "sudden weakness of the left arm",
            "a first seizure",
            "tremor of the right hand at rest",
        ),
        findings=(
            "a facial droop and slurred speech",
            "brisk reflexes and an upgoing plantar",
            "cogwheel rigidity",
            "a normal scan of the brain",
        ),
        completions=("migraine with aura", "possible stroke", "Parkinson disease"),
    ),
    Topic(
        label="gastroenterology",
        complaints=(
            "burning pain after meals",
            "bloody diarrhea for two weeks",
            "difficulty swallowing solids",
            "cramping pain in the abdomen and bloating",
        ),
        findings=(
            "tenderness over the epigastrium",
            "raised liver enzymes",
            "ulcers of the colon on endoscopy",
            "a distended abdomen with active bowel sounds",
        ),
        completions=("gastric reflux", "ulcerative colitis", "gallstones"),
    ),
    Topic(
        label="orthopedics",
        complaints=(
            "knee pain after a fall",
            "stiffness of the hip when climbing stairs",
            "a swollen ankle after football",
            "low back pain on lifting",
        ),
        findings=(
            "a fracture of the distal radius on film",
            "a positive drawer test",
            "narrowing of the joint space",
            "tenderness over the lateral malleolus",
        ),
        completions=("torn ligament", "osteoarthritis", "wrist fracture"),
    ),
    Topic(
        label="dermatology",
        complaints=(
            "an itchy rash on both elbows",
            "a mole that has grown darker",
            "hives after a new soap",
            "painful blisters along one rib",
        ),
        findings=(
            "silvery plaques on the skin",
            "an asymmetric pigmented lesion",
            "weals that blanch on pressure",
            "grouped vesicles in one dermatome",
        ),
        completions=("psoriasis", "suspicious mole", "contact urticaria"),
    ),
    Topic(
        label="pulmonology",
        complaints=(
            "wheezing and cough at night",
            "a productive cough with fever",
            "breathlessness after one flight of stairs",
            "coughing up blood",
        ),
        findings=(
            "crackles at the right lung base",
            "a low peak flow that improves with salbutamol",
            "an infiltrate on the chest film",
            "hyperinflated lungs",
        ),
        completions=("asthma attack", "pneumonia", "chronic bronchitis"),
    ),
)

DESKS = (
    Topic(
        label="lost_card",
        complaints=(
            "my wallet was stolen on the train",
            "I cannot find my debit card anywhere",
            "I left my card in a cash machine",
            "somebody took my purse and my card with it",
        ),
        findings=(
            "please block it at once",
            "I need a replacement sent to my home",
            "can you freeze it until I find it",
        ),
        completions=("block card", "replace card"),
    ),
    Topic(
        label="fraud",
        complaints=(
            "there are payments that I never made",
            "a caller pretended to be from your security team",
            "I received a text with a strange link and my balance dropped",
            "a shop abroad charged me although I was at home",
        ),
        findings=(
            "I want to dispute these charges",
            "please investigate and refund me",
            "I did not authorize any of it",
        ),
        completions=("dispute charge", "report scam"),
    ),
    Topic(
        label="transfer",
        complaints=(
            "the money I sent has not arrived",
            "I typed the wrong account when I paid my rent",
            "my standing order was not executed",
            "an international wire is pending for a week",
        ),
        findings=(
            "when will the recipient get it",
            "can it be recalled",
            "what is the status of the payment",
        ),
        completions=("trace transfer", "recall transfer"),
    ),
    Topic(
        label="account_access",
        complaints=(
            "the app rejects my password",
            "I am locked out after three attempts",
            "I no longer receive the login code",
            "my fingerprint is not accepted since the update",
        ),
        findings=(
            "how do I reset it",
            "please unlock my profile",
            "I have a new phone and cannot sign in",
        ),
        completions=("reset password", "unlock profile"),
    ),
    Topic(
        label="loan",
        complaints=(
            "I would like to borrow for a new kitchen",
            "my mortgage rate is about to expire",
            "I want to repay my car credit early",
            "the installment was taken twice this month",
        ),
        findings=(
            "what interest would I pay",
            "is there a fee for early repayment",
            "please send me an offer for five years",
        ),
        completions=("loan offer", "early repayment"),
    ),
    Topic(
        label="fees",
        complaints=(
            "you charged me for an overdraft",
            "there is a maintenance charge on my statement",
            "withdrawing cash abroad cost me extra",
            "I was billed for a paper statement",
        ),
        findings=(
            "why was this deducted",
            "please explain the price list",
            "I was told that the account is free",
        ),
        completions=("explain fee", "waive fee"),
    ),
)

FIRST = ("anna", "ben", "carla", "david", "elena", "farid", "grace", "hugo", "ines", "jonas")
LAST = ("adler", "brook", "costa", "dunne", "ekman", "frost", "garcia", "hale", "ivanov", "jones")
MONTHS = ("January", "February", "March", "April", "June", "July", "August", "October", "December")

NOTE_FRAMES = (
    "Seen {date}. Patient, {age}, reports {complaint}. Examination: {finding}. {identifier}.",
    "{identifier}. {age}-year-old with {complaint}, since {date}. We found {finding}.",
    "Referral: {complaint}. On examination {finding}. {identifier}. Visit {date}.",
    "Complains of {complaint}. Found: {finding}. Follow-up {date}. {identifier}.",
)
MESSAGE_FRAMES = (
    "Hello, {complaint}: {finding}. {identifier}.",
    "On {date} I noticed this: {complaint}. {finding}. {identifier}.",
    "{complaint}, {finding}. It happened on {date}. {identifier}, thank you.",
    "Dear team, {complaint} and {finding}. {identifier}.",
)
NOTE_IDENTIFIERS = (
    "MRN {record}",
    "Patient ID: {record}, phone {phone}",
    "Next of kin can be reached at {phone}",
    "SSN {ssn}",
    "Letter to {email}",
    "Images at {url}",
)
MESSAGE_IDENTIFIERS = (
    "My card is {card}",
    "Account number {record}",
    "Please pay to {iban}",
    "Call me on {phone}",
    "Write to {email}",
    "I logged in from {ip}",
)


def make_rows(site: DemoSite, *, num_rows: int, seed: int) -> list[Row]:
    """`num_rows` rows of `site`; the same arguments make the same rows."""
    generator = np.random.default_rng([seed, SITES.index(site)])
    is_hospital = site.unit == "patient"
    topics = DEPARTMENTS if is_hospital else DESKS
    frames = NOTE_FRAMES if is_hospital else MESSAGE_FRAMES
    identifiers = NOTE_IDENTIFIERS if is_hospital else MESSAGE_IDENTIFIERS
    rows: list[Row] = []
    num_units = 0
    for index in range(num_rows):
        if not rows or generator.random() >= SECOND_ROW_SHARE:
            num_units += 1
        topic = topics[int(generator.choice(len(topics), p=site.shares))]
        draw = _Draw(generator)
        prompt = draw.one(frames).format(
            age=int(generator.integers(19, 90)),
            complaint=draw.one(topic.complaints),
            finding=draw.one(topic.findings),
            date=draw.date(),
            identifier=draw.fill(draw.one(identifiers)),
        )
        record = {
            "id": f"{site.name}-{index:05d}",
            "source": site.source,
            "prompt": prompt[0].upper() + prompt[1:],
            "completion": draw.one(topic.completions),
            "label": topic.label,
            "unit_id": f"{site.name}-{site.unit}-{num_units:05d}",
        }
        planted = tuple(value for value in draw.planted if value in record["prompt"])
        rows.append(Row(record=record, planted=planted))
    return rows


class _Draw:
    """Draws from lists and makes up personal data; `planted` keeps what it made up."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self.planted: list[str] = []

    def one(self, choices: Sequence[str]) -> str:
        return choices[int(self._generator.integers(len(choices)))]

    def digits(self, count: int) -> str:
        return "".join(str(digit) for digit in self._generator.integers(0, 10, count))

    def date(self) -> str:
        day, month = int(self._generator.integers(1, 29)), int(self._generator.integers(1, 13))
        year = int(self._generator.integers(2018, 2025))
        forms = (
            f"{year}-{month:02d}-{day:02d}",
            f"{month}/{day}/{year}",
            f"{day} {self.one(MONTHS)} {year}",
            f"{self.one(MONTHS)} {day}, {year}",
        )
        return self._plant(self.one(forms))

    def fill(self, template: str) -> str:
        """`template` with its fields made up."""
        fields = {
            "record": self.record,
            "phone": self.phone,
            "ssn": self.ssn,
            "email": self.email,
            "url": self.url,
            "card": self.card,
            "iban": self.iban,
            "ip": self.ip,
        }
        wanted = [key for key in fields if "{" + key + "}" in template]
        return template.format(**{key: fields[key]() for key in wanted})

    def record(self) -> str:
        return self._plant(self.digits(8))

    def phone(self) -> str:
        # 555-0100 to 555-0199 belong to nobody.
        area, line = int(self._generator.integers(201, 990)), f"555-01{self.digits(2)}"
        return self._plant(self.one((f"({area}) {line}", f"{area}-{line}", f"+1 {area} {line}")))

    def ssn(self) -> str:
        # No social security number begins with 9.
        return self._plant(f"9{self.digits(2)}-{self.digits(2)}-{self.digits(4)}")

    def email(self) -> str:
        name = f"{self.one(FIRST)}.{self.one(LAST)}{self.digits(2)}"
        return self._plant(f"{name}@example.{self.one(('com', 'org', 'net'))}")

    def url(self) -> str:
        return self._plant(f"https://pacs.example.org/s/{self.digits(6)}")

    def card(self) -> str:
        body = "400000" + self.digits(9)
        card = next(body + check for check in "0123456789" if luhn_holds(body + check))
        separator = self.one(("", " ", "-"))
        return self._plant(separator.join(card[i : i + 4] for i in range(0, 16, 4)))

    def iban(self) -> str:
        # There is no bank TEST.
        account = "TEST" + self.digits(14)
        number = "".join(str(int(character, 36)) for character in account + "GB00")
        iban = f"GB{98 - int(number) % 97:02d}{account}"
        return self._plant(" ".join(iban[i : i + 4] for i in range(0, 22, 4)))

    def ip(self) -> str:
        return self._plant(f"192.0.2.{int(self._generator.integers(1, 255))}")

    def _plant(self, value: str) -> str:
        self.planted.append(value)
        return value


def generate(out: Path, *, num_rows: int = NUM_ROWS, seed: int = 0) -> list[Path]:
    """Write one `.jsonl.gz` a site to `out`; returns their paths in the order of `SITES`."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for site in SITES:
        path = out / f"{site.name}.jsonl.gz"
        lines = [
            json.dumps(row.record) + "\n" for row in make_rows(site, num_rows=num_rows, seed=seed)
        ]
        # No time stamp: the same seed makes the same bytes.
        path.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
        paths.append(path)
    return paths


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and write the files."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.demo.generate",
        description="Make the demo's data: four sites, invented text, planted personal data.",
        epilog="example: python -m deploy.demo.generate --out demo-data --rows 400 --seed 0",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the .jsonl.gz files")
    parser.add_argument(
        "--rows", type=int, default=NUM_ROWS, help=f"rows a site (default: {NUM_ROWS})"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed (default: 0)")
    arguments = parser.parse_args(argv)
    if arguments.rows < 1:
        parser.error(f"expected --rows >= 1, got {arguments.rows}")
    for path in generate(arguments.out, num_rows=arguments.rows, seed=arguments.seed):
        print(path)
    print(f"{arguments.rows} rows a site", file=sys.stderr)


if __name__ == "__main__":
    main()
