"""What every part of the page is built with: its language, its links, its tables."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from privacy.compliance.markup import NOTHING, Html, escaped, tag
from privacy.compliance.words import Words

_KINDS = {
    "ACCOUNT_NUMBER": "account numbers",
    "AGE": "ages over 89",
    "CREDIT_CARD": "card numbers",
    "CUSTOMER_ID": "customer numbers",
    "CVV": "card security codes",
    "DATE": "dates",
    "DEVICE_ID": "device numbers",
    "EMAIL": "e-mail addresses",
    "HEALTH_PLAN_NUMBER": "health plan numbers",
    "IBAN": "IBANs",
    "IP_ADDRESS": "IP addresses",
    "LICENCE_NUMBER": "licence numbers",
    "LOCATION": "places and addresses",
    "PASSPORT": "passport numbers",
    "PASSWORD": "passwords",
    "PERSON": "names",
    "PHONE": "phone numbers",
    "RECORD_NUMBER": "record numbers",
    "RESIDENT_ID": "resident identity numbers",
    "ROUTING_NUMBER": "routing numbers",
    "SOCIAL_CREDIT_CODE": "social credit codes",
    "SORT_CODE": "sort codes",
    "SSN": "social security numbers",
    "SWIFT": "SWIFT codes",
    "URL": "web addresses",
    "VEHICLE": "plates and vehicle numbers",
}
_LANGUAGES = {"en": "English", "zh": "Chinese"}


class Page:
    """One page in the making: its words, and which entries it cites."""

    def __init__(self, words: Words) -> None:
        self.say = words
        self.cited: set[int] = set()

    def refs(self, entries: Iterable[int | None], limit: int = 3) -> Html:
        """Links from a figure to the entries that it comes from."""
        known = sorted({entry for entry in entries if entry is not None})
        # Only entries that are linked must be listed on the page.
        self.cited.update(known[:limit])
        links = [tag("a", f"#{entry}", href=f"#entry-{entry}") for entry in known[:limit]]
        if len(known) > limit:
            links.append(escaped(self.say("and {n} more", n=len(known) - limit)))
        separated = [part for link in links for part in (" ", link)][1:]
        return tag("span", *separated, class_="refs")

    def kind(self, entity_type: str) -> str:
        """An entity type for people."""
        return self.say(_KINDS.get(entity_type, entity_type))

    def tongue(self, language: str) -> str:
        """A language for people."""
        return self.say(_LANGUAGES.get(language, language))

    def day(self, at: datetime) -> str:
        """A date for people."""
        if self.say.language == "zh":
            return f"{at.year}年{at.month}月{at.day}日"
        return f"{at.day} {at:%B %Y}"

    def period(self, first: datetime, last: datetime) -> str:
        """From one day to another."""
        if first.date() == last.date():
            return self.say("on {day}", day=self.day(first))
        return self.say("from {first} to {last}", first=self.day(first), last=self.day(last))


def section(title: str, *parts: object) -> Html:
    """A part of the page under its title."""
    return tag("section", tag("h2", title), *parts)


def table(columns: Sequence[str], rows: Iterable[Iterable[object]], **attributes: object) -> Html:
    """A table; a column whose title begins with `>` holds numbers, the first holds names."""
    kinds = ["num" if column.startswith(">") else None for column in columns]
    titles = [
        tag("th", column.removeprefix(">"), class_=kind, scope="col")
        for column, kind in zip(columns, kinds, strict=True)
    ]
    body = []
    for row in rows:
        cells = [
            tag("th", cell, scope="row")
            if place == 0 and kind is None
            else tag("td", cell, class_=kind)
            for place, (cell, kind) in enumerate(zip(row, kinds, strict=True))
        ]
        body.append(tag("tr", *cells))
    return tag(
        "div",
        tag("table", tag("thead", tag("tr", *titles)), tag("tbody", *body), **attributes),
        class_="wide",
    )


def note(*parts: object, warn: bool = False) -> Html:
    """A paragraph that must not be overlooked."""
    return tag("div", tag("p", *parts), class_="note warn" if warn else "note")


def size(count: int) -> str:
    """A number of bytes."""
    if count < 1000:
        return f"{count} B"
    if count < 1_000_000:
        return f"{count / 1000:.1f} kB"
    return f"{count / 1_000_000:.1f} MB"


def clock(at: datetime) -> str:
    """A time of day."""
    return f"{at:%Y-%m-%d %H:%M:%S}"


__all__ = ["NOTHING", "Page", "clock", "note", "section", "size", "table"]
