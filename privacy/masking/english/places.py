"""Addresses in English text: streets, boxes, flats, postcodes, cities before a state."""

import re
from collections.abc import Iterator

from privacy.masking.english.cues import GENERIC
from privacy.masking.english.names import find_names
from privacy.masking.english.words import read_list, words
from privacy.masking.patterns import ANY, Place, any_in, digit_runs, last_word, lowered, numbered

_STREET = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Drive|Dr|Lane|Ln|Court|Ct|Place|Pl|Terrace|Ter|"
    r"Circle|Cir|Trail|Trl|Parkway|Pkwy|Square|Sq|Highway|Hwy|Crescent|Close|Way|Alley|Mews|Gardens|"
    r"Grove|Row|Walk|Loop|Path|Plaza|Pike|Turnpike|Point|Ridge|Crossing|Hollow|Estates?)"
)
# The other suffixes of USPS Publication 28, appendix C1; only with a name of one or two words.
_RARE = (
    r"(?:Annex|Arcade|Bayou|Beach|Bend|Bluff|Bottom|Branch|Bridge|Brook|Burg|Bypass|Camp|Canyon|Cape|"
    r"Causeway|Center|Cliff|Club|Common|Corner|Course|Cove|Creek|Crest|Crossroad|Curve|Dale|Dam|"
    r"Divide|Expressway|Extension|Fall|Ferry|Field|Flat|Ford|Forest|Forge|Fork|Fort|Freeway|Garden|"
    r"Gateway|Glen|Green|Harbor|Haven|Heights|Hill|Inlet|Island|Isle|Junction|Key|Knoll|Lake|Land|"
    r"Landing|Light|Loaf|Lock|Lodge|Mall|Manor|Meadow|Mill|Mission|Motorway|Mount|Mountain|Neck|"
    r"Orchard|Oval|Overpass|Park|Pass|Passage|Pine|Plain|Port|Prairie|Radial|Ramp|Ranch|Rapid|Rest|"
    r"River|Route|Rue|Run|Shoal|Shore|Skyway|Spring|Spur|Station|Stravenue|Stream|Summit|Throughway|"
    r"Trace|Track|Trafficway|Tunnel|Underpass|Union|Valley|Viaduct|View|Village|Ville|Vista|Wall|Well)"
    r"s?"
)
STATES = (
    r"(?:A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|RI|"
    r"S[CD]|T[NX]|UT|V[AT]|W[AIVY])"
)
_NAME = r"[A-Z\u00c0-\u024f][\w'\u2019.\-]*"
_ADDRESS = re.compile(
    rf"[0-9]{{1,6}}[A-Za-z]?(?:[-/][0-9]{{1,4}})?,? "
    rf"(?:(?:N|S|E|W|NE|NW|SE|SW|North|South|East|West)\.? )?"
    rf"(?:(?:{_NAME}|[0-9]{{1,3}}(?:st|nd|rd|th)|of|the) ){{1,4}}{_STREET}(?![a-z])\.?"
)
_RARE_ADDRESS = re.compile(rf"[0-9]{{2,6}} (?:{_NAME} ){{1,2}}{_RARE}(?![\w])")
_LIVES = re.compile(
    r"(?:live[sd]?|living|resid(?:e[sd]?|ing)|based|born|raised|grew up|mov(?:ed|ing)|resident|"
    r"i am|stay(?:s|ed|ing)?|i'?m) (?:in|at|to|of|near) "
    r"(?P<place>(?:(?:new|old|north|south|east|west|lake|port|fort|mount|san|santa|los|las|st\.?|"
    r"saint|el|la) )?[^\W\d_][\w'\u2019\-]{2,24})"
)
_SURE = ("live", "living", "resid", "based", "born", "raised", "grew up")
_LIVE_CUES = (*_SURE, "moved", "moving", "stay", "i am", "i'm", "im ")
_SMALL_ADDRESS = re.compile(
    r"[0-9]{1,6} (?:[a-z0-9'.\-]+ ){1,3}(?:street|avenue|ave|road|rd|boulevard|blvd|lane|"
    r"drive|court|terrace|crescent|parkway)(?![a-z])"
)
_NUMBERED_STREET = re.compile(
    r"[0-9]{1,3}(?:st|nd|rd|th) (?:street|st|avenue|ave|road|rd|blvd|boulevard)(?![a-z])", ANY
)
_UNITS = re.compile(
    r"(?<![a-z])(?:apt|apartment|suite|ste|flat|"
    r"(?:p\.? ?o\.? ?|post|psc [0-9]{1,5}, |unit [0-9]{1,5} )box|psc|(?-i:Unit|Box))\.? ?#?$",
    ANY,
)
_ZIP_BEFORE = re.compile(rf"(?<![A-Za-z])(?:{STATES}|A[AEP])\.?,? $")
_ZIP = re.compile(r"[0-9]{5}(?:-[0-9]{3,4})?(?![0-9])")
_CODE_BEFORE = re.compile(r"(?<![a-z])(?:zip|post(?:al)?)(?:[ -]?code)?[^0-9\n]{0,12}$", ANY)
_CODE = re.compile(r"[0-9]{3,6}(?:-[0-9]{3,4})?(?![0-9])(?: [A-Z]{2}(?![A-Za-z]))?")
_UK = numbered(
    r"[0-9][A-Z0-9]? ?[0-9][ABD-HJLNP-UW-Z]{2}(?![A-Z0-9])",
    back=r"(?<![A-Z0-9])(?P<value>[A-Z]{1,2})",
    reach=3,
    flags=0,
)
_CANADA = numbered(
    r"[0-9][A-Z] [0-9][A-Z][0-9](?![A-Z0-9])",
    back=r"(?<![A-Z0-9])(?P<value>[ABCEGHJ-NPRSTVXY])",
    reach=2,
    flags=0,
)
_STATE_AFTER = re.compile(rf", {STATES}(?![A-Za-z])")
_LAST_NAMES = re.compile(rf"(?:{_NAME} ){{0,2}}{_NAME}$")
# Streets as other languages write them: the number comes last.
_STREET_ENDS = (
    "weg", "vei", "baan", "stra\u00dfe", "strasse", "gasse", "platz", "allee", "gata", "gatan",
    "gade", "vej", "veien", "v\u00e4gen", "laan", "straat", "plein", "utca", "katu",
)  # fmt: skip
_STREET_STARTS = frozenset(
    {"rue", "via", "calle", "avenida", "rua", "viale", "piazza", "ul.", "ulica"}
)
_STREET_FIRST = tuple(_STREET_STARTS)
_FOREIGN = re.compile(
    rf"(?<!\w)(?:\w*(?:{'|'.join(_STREET_ENDS)})|(?:{'|'.join(sorted(_STREET_STARTS))}) "
    r"[^\W\d_][\w'\u2019 ]{1,32}),? $".replace("ul.", r"ul\."),
    re.IGNORECASE,
)
_FLAT_BEFORE = re.compile(r"(?<![\w.,/:-])([0-9]{1,5},? )$")
# Where the number comes first: `26 rue de Tanger`, `9 Avenida del Sol`.
_FOREIGN_ADDRESS = re.compile(
    r"[0-9]{1,5}(?: ?(?:bis|ter|[A-Za-z]))?,? (?i:rue|avenue|all\u00e9e|chemin|impasse|quai|cours|"
    r"boulevard|place|route|via|viale|piazza|corso|vicolo|calle|c/|avenida|avda?\.?|carrer|ctra\.?|"
    r"plaza|paseo|rua|r\u00faa|travessa|ul\.?|ulica|ulice|al\.|os\.|pl\.|jalan|jl\.?) "
    r"(?:(?:de|des|du|la|le|les|el|los|las|do|da|dos|das|di|del|della|dei|of|al|ibn|et|y|e|"
    rf"l['\u2019]|d['\u2019]) ?){{0,4}}{_NAME}"
    rf"(?: (?:(?:de|du|des|del|la|al|el|ibn) )?{_NAME}){{0,3}}"
)
_CORNER = re.compile(
    rf"(?:the )?corner of (?:[0-9]{{1,5}} )?{_NAME}(?: {_NAME}){{0,4}}(?: [0-9]{{1,5}})? "
    r"(?:and|&) "
    rf"(?:[0-9]{{1,5}} )?{_NAME}(?: {_NAME}){{0,4}}(?: [0-9]{{1,5}}(?![0-9]))?"
)
_HOUSE = re.compile(r"[0-9]+[A-Za-z]?(?:-[0-9A-Za-z]+)?")
_UNIT_WORDS = frozenset({"apt", "apartment", "suite", "ste", "flat", "box", "psc", "unit"})
_SHORT_CODE = 3


def addresses(text: str) -> Iterator[Place]:
    """Streets with house numbers, boxes, flats, postcodes, and a city before its state."""
    low = lowered(text)
    small, codes = any_in(low, _SMALL_STREETS), any_in(low, ("zip", "post"))
    foreign = any_in(low, _STREET_ENDS) or any_in(low, _STREET_FIRST)
    for start, end, digits in digit_runs(text):
        match = _house(text, start, end, small=small)
        if match:
            # `12 45 High Street`: the number of a flat or a building stands before the house's.
            flat = _FLAT_BEFORE.search(text, max(0, start - 8), start)
            yield flat.start(1) if flat else start, match.end()
            continue
        before = text[max(0, start - 24) : start]
        last = _last_part(before.rstrip(" #")).lower().rstrip(".:")
        if foreign and (
            last.endswith(_STREET_ENDS) or _STREET_STARTS.intersection(before.lower().split())
        ):
            street = _FOREIGN.search(text, max(0, start - 48), start)
            number = _HOUSE.match(text, start)
            if street and number:
                yield street.start(), number.end()
                continue
        unit = _UNITS.search(before) if last in _UNIT_WORDS else None
        if unit:
            number = _HOUSE.match(text, start)
            if number:
                yield start - len(unit[0]), number.end()
            continue
        if digits < _SHORT_CODE:
            continue
        code = None
        if codes and _CODE_BEFORE.search(before):
            code = _CODE.match(text, start)
        if code is None and before[-1:] == " " and _ZIP_BEFORE.search(before[-6:]):
            code = _ZIP.match(text, start)
        if code:
            yield code.span()
    yield from _lived_in(text)
    yield from _visited(text)
    yield from _MILITARY(text)
    yield from _MILITARY_CODE(text)
    yield from _UK(text)
    yield from _CANADA(text)
    for match in _STATE_AFTER.finditer(text):
        city = _LAST_NAMES.search(text, max(0, match.start() - 50), match.start())
        if city:
            yield city.start(), match.end()
    if "corner of" in text:
        yield from (match.span() for match in _CORNER.finditer(text))
    yield from _around_places(text)


def _house(text: str, start: int, end: int, *, small: bool) -> re.Match[str] | None:
    """A street behind or around the number of a house."""
    if text[end : end + 1] not in _AFTER_HOUSE or end - start > 6:
        return None
    return (
        _ADDRESS.match(text, start)
        or _NUMBERED_STREET.match(text, start)
        or (_SMALL_ADDRESS.match(text, start) if small else None)
        or _RARE_ADDRESS.match(text, start)
        or _FOREIGN_ADDRESS.match(text, start)
    )


def _last_part(text: str) -> str:
    """What stands behind the last space, bracket or arrow."""
    end = len(text)
    while end and not (text[end - 1].isspace() or text[end - 1] in ">("):
        end -= 1
    return text[end:]


_AFTER_HOUSE = frozenset(" ,-/abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_SMALL_STREETS = (
    "street", "avenue", " ave", "road", " rd", "boulevard", "blvd", "lane", "drive", "court",
    "terrace", "crescent", "parkway",
)  # fmt: skip
_MILITARY = numbered(
    r"[0-9]{1,5},? Box [0-9]{1,5}", least=2, back=r"(?P<value>(?:PSC|Unit|CMR) )", reach=5
)
_MILITARY_CODE = numbered(
    r"[0-9]{5}(?![0-9])", least=5, back=r"(?P<value>[AFD]PO A[AEP] )", reach=8
)
_SEQUENCE = re.compile(rf"(?:the |our )?((?:{_NAME}|&|of)(?: (?:{_NAME}|&|of)){{0,4}})")
_VISITED = read_list("visited")
_WARDS = GENERIC | {
    "icu", "er", "ed", "or", "nicu", "picu", "ccu", "pacu", "unit", "department", "room", "ward",
    "floor", "bedside", "home", "dr", "mr", "mrs", "ms", "same", "which",
}  # fmt: skip


def _visited(text: str) -> Iterator[Place]:
    """`treated at Mass General`: whatever is capitalised there is a place."""
    for cue, verbs in ((" at ", _VISITED), (" to ", _ADMITTED)):
        place = text.find(cue)
        while place >= 0:
            found = _SEQUENCE.match(text, place + len(cue))
            if found and last_word(text, place + 1).lower() in verbs:
                parts = [part.strip(".,'").lower() for part in found[1].split()]
                if not _WARDS.issuperset(parts):
                    yield found.span(1)
            place = text.find(cue, place + 1)


_ADMITTED = frozenset({"admitted", "transferred", "presented", "transported", "discharged"})


def _lived_in(text: str) -> Iterator[Place]:
    """`i live in lake scott`: where one lives is a place, even one that no list has."""
    lists = words()
    for cue in _LIVE_CUES:
        begin = text.find(cue)
        while begin >= 0:
            match = _LIVES.match(text, begin)
            if match and match["place"].islower():
                last = match["place"].rpartition(" ")[2]
                two = match["place"] != last and cue in _SURE
                if two or last not in lists.ordinary:
                    yield match.span("place")
            begin = text.find(cue, begin + 1)


def _around_places(text: str) -> Iterator[Place]:
    """`Kaster 04731`, `75001 Paris`, `98 Grote Baan 477`: numbers beside a name."""
    persons, places = find_names(text)
    for start, end in places:
        after = _POSTCODE_AFTER.match(text, end)
        if after:
            yield after.span(1)
        before = _POSTCODE_BEFORE.search(text, max(0, start - 8), start)
        if before:
            yield before.span(1)
    for start, end in (*persons, *places):
        noun = _FACILITY_AFTER.match(text, end)
        if noun:
            yield start, noun.end()
        code = _STATE_CODE_AFTER.match(text, end)
        if code:
            yield code.span(1)
        first = _HOUSE_BEFORE.search(text, max(0, start - 14), start)
        last = _HOUSE_AFTER.match(text, end)
        if first and (last or not text[first.start(1) - 2 : first.start(1)].strip(" ,>")):
            yield first.start(1), end
        if last and (first or _AT_BEFORE.search(text, max(0, start - 12), start)):
            yield start, last.end(1)


_POSTCODE_AFTER = re.compile(r",? ([0-9]{4,6}(?:-[0-9]{3,4})?)(?![0-9/:])")
_POSTCODE_BEFORE = re.compile(r"(?<![0-9/.\-])([0-9]{4,6}),? $")
_STATE_CODE_AFTER = re.compile(r" ([0-9]{5})(?![0-9/:])")
_FACILITY_AFTER = re.compile(
    r" (?:clinic|hospital|medical center|health center|branch|office|general|hospice)(?![a-z])"
)
_HOUSE_BEFORE = re.compile(r"(?:^|(?<=[\s>,]))([0-9]{1,5}[A-Za-z]?,?(?: [0-9]{1,3})?) $")
_HOUSE_AFTER = re.compile(
    r" ([0-9]{1,4}[A-Za-z]?)\.?(?=[ \t]*(?:\n|$|,|\. | (?:Apt|Suite|St\b|street|P\.?O)))"
)
_AT_BEFORE = re.compile(r"(?:(?<![a-z])(?:at|in|to|address|street|on)[: ]{1,2}|\n>? ?)$", ANY)
