"""Addresses in English text: streets, boxes, flats, postcodes, cities before a state."""

import re
from collections.abc import Iterator

from privacy.masking.english.names import find_names
from privacy.masking.patterns import ANY, Place, digit_runs

_STREET = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Drive|Dr|Lane|Ln|Court|Ct|Place|Pl|Terrace|Ter|"
    r"Circle|Cir|Trail|Trl|Parkway|Pkwy|Square|Sq|Highway|Hwy|Crescent|Close|Way|Alley|Mews|Gardens|"
    r"Grove|Row|Walk|Loop|Path|Plaza|Pike|Turnpike|Point|Ridge|Crossing|Hollow|Estates?)"
)
STATES = (
    r"(?:A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|RI|"
    r"S[CD]|T[NX]|UT|V[AT]|W[AIVY])"
)
_NAME = r"[A-Z\u00c0-\u024f][\w'\u2019.\-]*"
_ADDRESS = re.compile(
    rf"[0-9]{{1,6}}[A-Za-z]?(?:[-/][0-9]{{1,4}})?,? (?:(?:N|S|E|W|NE|NW|SE|SW|North|South|East|West)\.? )?"
    rf"(?:(?:{_NAME}|[0-9]{{1,3}}(?:st|nd|rd|th)|of|the) ){{1,4}}{_STREET}(?![a-z])\.?"
)
_SMALL_ADDRESS = re.compile(
    r"[0-9]{1,6} (?:[a-z0-9'.\-]+ ){1,3}(?:street|avenue|ave|road|rd|boulevard|blvd|lane|"
    r"drive|court|terrace|crescent|parkway)(?![a-z])"
)
_NUMBERED_STREET = re.compile(
    r"[0-9]{1,3}(?:st|nd|rd|th) (?:street|st|avenue|ave|road|rd|blvd|boulevard)(?![a-z])", ANY
)
_UNIT_BEFORE = re.compile(
    r"(?:apt|apartment|suite|ste|unit|flat|room|rm|floor|p\.? ?o\.? ?box|po box|box|no|lot|bldg|"
    r"building|house)\.? ?#?$",
    ANY,
)
_UNITS = re.compile(r"(?:apt|apartment|suite|ste|flat|p\.? ?o\.? ?box)\.? ?#?$", ANY)
_ZIP_BEFORE = re.compile(
    rf"(?:(?<![A-Za-z]){STATES}\.?,? |(?:zip|post(?:al)?)[ -]?code[^0-9\n]{{0,12}}|\bzip[^0-9\n]{{0,6}})$"
)
_ZIP = re.compile(r"[0-9]{5}(?:-[0-9]{3,4})?(?![0-9])")
_UK = re.compile(
    r"(?<![A-Z0-9])(?:GIR ?0AA|[A-Z]{1,2}[0-9][A-Z0-9]? ?[0-9][ABD-HJLNP-UW-Z]{2})(?![A-Z0-9])"
)
_CANADA = re.compile(r"(?<![A-Z0-9])[ABCEGHJ-NPRSTVXY][0-9][A-Z] [0-9][A-Z][0-9](?![A-Z0-9])")
_CITY_STATE = re.compile(rf"(?:{_NAME} ){{0,2}}{_NAME}, (?={STATES}(?![A-Za-z]))")
_STATE_AFTER = re.compile(rf", {STATES}(?![A-Za-z])")
_LAST_NAMES = re.compile(rf"(?:{_NAME} ){{0,2}}{_NAME}$")
_FOREIGN = re.compile(
    r"(?:\w*(?:stra(?:\u00df|ss)e|strasse|weg|gasse|platz|allee|gata|gatan|gade|vej|vei|veien|v\u00e4gen|"
    r"laan|straat|plein|baan|utca|ulica|katu|tie)|(?:rue|via|calle|avenida|rua|plaza|viale|piazza|"
    r"ul\.|ulica|boulevard) [^\W\d_][\w'\u2019 ]{1,24}?),? (?=[0-9]{1,4}(?![0-9]))",
    re.IGNORECASE,
)
_ROOM = re.compile(r"[ ,]{1,2}")


def addresses(text: str) -> Iterator[Place]:
    """Streets with house numbers, boxes, flats, postcodes, and a city before its state."""
    for start, _, _ in digit_runs(text):
        match = _ADDRESS.match(text, start) or _NUMBERED_STREET.match(text, start)
        match = match or _SMALL_ADDRESS.match(text, start)
        if match:
            yield match.span()
            continue
        before = text[max(0, start - 24) : start]
        unit = _UNITS.search(before)
        if unit:
            number = re.compile(r"[0-9]+[A-Za-z]?(?:-[0-9A-Za-z]+)?").match(text, start)
            if number:
                yield start - len(unit[0]), number.end()
            continue
        code = _ZIP.match(text, start)
        if code and _ZIP_BEFORE.search(before):
            yield code.span()
    for pattern in (_UK, _CANADA):
        for match in pattern.finditer(text):
            yield match.span()
    for match in _STATE_AFTER.finditer(text):
        city = _LAST_NAMES.search(text, max(0, match.start() - 50), match.start())
        if city:
            yield city.span()
    for match in _FOREIGN.finditer(text):
        number = re.compile("[0-9]+").match(text, match.end())
        if number:
            yield match.start(), number.end()
    yield from _around_places(text)


def _around_places(text: str) -> Iterator[Place]:
    """`Kaster 04731`, `75001 Paris`: the postcode beside a place."""
    for start, end in find_names(text)[1]:
        after = re.compile(r",? ([0-9]{4,6}(?:-[0-9]{3,4})?)(?![0-9/:])").match(text, end)
        if after:
            yield after.span(1)
        before = re.compile(r"(?<![0-9/.\-])[0-9]{4,6},? $").search(text, max(0, start - 8), start)
        if before:
            yield before.start(), before.end() - 1
