"""Numbers and codes that a word before them makes personal: `MRN: 48213`, `cvv 123`."""

import re
from collections.abc import Iterator
from functools import lru_cache

from privacy.masking.patterns import ANY, Finder, Place, any_in, digit_runs, lowered, numbered

# What people write before an identifier that has no form of its own.
CUES = {
    "ACCOUNT_NUMBER": (
        r"accounts?|acct|a/c|loan|mortgage|deposit|savings|checking|current|escrow|debit|credit|"
        r"card|beneficiary account"
    ),
    "CUSTOMER_ID": (
        r"customer|client|cif|user|user ?name|login|employee|staff|badge|payroll|member since"
    ),
    "CVV": r"cvv2?|cvc2?|security code|card code|card verification(?: value| code)?",
    "DEVICE_ID": (
        r"serial|s/n|sn|device|imei|udi|implant|pacemaker|generator|lead|lot|model|meid|asset"
    ),
    "HEALTH_PLAN_NUMBER": (
        r"members?|membership|subscriber|beneficiary|insurance|insured|ins|medicare|medicaid|"
        r"health ?plan|plan|policy|group|payer|payor|hbn|hpbn|hicn|mbi|hmo|ppo|coverage|claim"
    ),
    "LICENCE_NUMBER": (
        r"licen[cs]e|driver'?s?(?: licen[cs]e)?|driving licen[cs]e|dl|dea|npi|upin|certificate|"
        r"cert|certification|registration|gmc|bar|notary|permit to practi[cs]e"
    ),
    "PASSPORT": (
        r"passport|visa number|visa no|permit|green card|alien|residence card|travel document"
    ),
    "RECORD_NUMBER": (
        r"mrn|mr|emr|ehr|csn|medical record|health record|hospital record|record|chart|patient|pt|"
        r"hospital|unit|file|encounter|visit|accession|specimen|episode|nhs|study|sample|"
        r"case|complaint|application|reference|ref|confirmation|transaction|order|invoice|ticket|"
        r"tracking|identification|identifier|id|document|docket|report|job|dictation|account id|"
        r"bill|receipt|check|cheque|requisition|prescription|rx"
    ),
    "ROUTING_NUMBER": r"routing|aba|rtn|transit|routing transit|fedwire|bsb|ifsc|bank code",
    "SORT_CODE": r"sort ?code|sort code number",
    "SSN": (
        r"ssn|sin|itin|tin|ein|tax|tax ?payer|social security|social insurance|social|"
        r"national insurance|nino|national id|identity card|pesel|nif|cpf"
    ),
    "VEHICLE": (
        r"licen[cs]e plates?|number plates?|registration plates?|vin|vehicle(?: identification)?|"
        r"car registration|vehicle registration|reg"
    ),
}
_NUMBER = (
    r"(?:[ _\-]{0,2}(?:record|numbers?|num|nbr|nr|no|id|identifier|code|#|n\u00ba)(?![a-z])\.?)"
)
_BETWEEN = r"[ \t]{0,2}(?:(?:is|was|as|of|:|#|=|-|\(|with|ending(?: in)?)[ \t]{0,2}){0,3}"
_CUE = re.compile(
    r"(?<![a-z])(?:"
    + "|".join(f"(?P<{name}>{cues})" for name, cues in CUES.items())
    + rf"){_NUMBER}{{0,4}}{_BETWEEN}$"
)
# Words that mean a number of something unless `number`, `no`, `#` or a colon follows.
_VAGUE = re.compile(
    r"(?:^|[^a-z])(?:current|deposit|savings|checking|debit|credit|card|user|lead|lot|model|group|"
    r"plan|claim|unit|study|sample|order|check|cheque|report|bill|social|tax|transit|tag|reg|bar|"
    r"visit|job|patient|pt|loan|mortgage|case|ref|sn|mr|rx|dl|sin|tin|permit|implant|generator|"
    r"hospital|record|chart|file|device|policy|members?|ins|insurance|social insurance)"
    r"(?:s? (?:is|was|as|of|with))?[ \t]{1,2}$"
)
_AMOUNT = r"(?![A-Z0-9]|\.[0-9]|,[0-9]{3}| ?%)"
_VALUE = re.compile(
    r"(?=[A-Z0-9/\-]{4})(?=(?:[A-Z/\-]*[0-9]){3})"
    r"(?:[0-9]{2,6}(?: [0-9]{2,6}){1,5}(?![0-9])|[A-Z0-9]++(?:[/\-][A-Z0-9]++)*+)" + _AMOUNT,
    ANY,
)
_SHORT = re.compile(r"[0-9]{3,4}(?![0-9])")
_REACH = 48
_PART = re.compile(r"[A-Za-z0-9/\-]{1,16}$")
_UNITS = re.compile(
    r" ?(?:mg|ml|mcg|g|kg|units?|percent|dollars?|usd|euros?|pounds?|days?|weeks?|months?|years?|"
    r"minutes?|hours?|times|miles|payments?|points?|am|pm|cc|cm|mm|lbs?|oz|k)(?![a-z])"
)


@lru_cache(maxsize=2)
def cued(text: str) -> tuple[tuple[str, int, int], ...]:
    """Every number after a cue: its type, start and end."""
    low = lowered(text)
    found = []
    free = 0
    for start, _, digits in digit_runs(text):
        if digits < 3 or start < free:
            continue
        begin = start
        if start and (low[start - 1].isalnum() or low[start - 1] in "-/"):
            part = _PART.search(text, max(free, start - 16), start)
            if part:
                begin = part.start()
                while text[begin] in "-/":
                    begin += 1
        cue = _CUE.search(low, max(0, begin - _REACH), begin)
        if cue is None or cue.lastgroup is None:
            labelled = _labelled(text, start, digits)
            if labelled:
                found.append(("RECORD_NUMBER", *labelled))
                free = labelled[1]
            continue
        kind = cue.lastgroup
        value = _VALUE.match(text, begin)
        if kind == "CVV":
            value = _SHORT.match(text, start)
        if value is None or _UNITS.match(low, value.end()):
            continue
        if _VAGUE.search(low, max(0, cue.start() - 1), begin) and digits < 6:
            continue
        found.append((kind, *value.span()))
        free = value.end()
    return tuple(found)


def _labelled(text: str, start: int, digits: int) -> Place | None:
    """A long number after a short label and a colon, in any language: `NHC: 2569870`."""
    if digits < 4 or text[max(0, start - 3) : start].rstrip(" ")[-1:] != ":":
        return None
    label = _LABEL.search(text, max(0, start - 20), start)
    value = _GROUPS.match(text, start)
    if label is None or value is None or _UNITS.match(text, value.end()):
        return None
    # `N\u00baCol: 2804`: the label says that a number follows.
    least = 4 if _SAYS_NUMBER.match(label[1]) else 5 if label[1].isupper() else 6
    return value.span() if digits >= least else None


_LABEL = re.compile(r"([^\W\d_][\w.\u00ba\u00b0]{1,14}) ?: {0,2}$")
_SAYS_NUMBER = re.compile(
    r"N[\u00ba\u00b0]|N(?:um|o|r)\.|(?:NHC|NASS|CIPA|DNI|NIE|NIF|SIP|CIP|HC)$"
)
_GROUPS = re.compile(r"[0-9]+(?:[ /\-][0-9]+)*" + _AMOUNT, ANY)


def cued_as(kind: str) -> Finder:
    """A finder of the numbers whose cue says that they are of `kind`."""

    def finder(text: str) -> Iterator[Place]:
        return ((start, end) for found, start, end in cued(text) if found == kind)

    return finder


_SECRET = re.compile(
    r"(?<![a-z])(?:pass ?(?:word|code|phrase)|pwd|passwd|secret(?: key| answer)?|api[ _\-]?key|"
    r"access[ _\-]?(?:key|token)|auth(?:entication)?[ _\-]?(?:key|token|code)|bearer|"
    r"one[ \-]time (?:code|password)|otp|verification code|token)"
    r"(?: (?:is|was|to|=)|[\"']?\s?[:=]| is:)\s{0,2}[\"'\u201c]?"
    r"(?P<value>[^\s\"'\u201d\ue000]{4,80})"
)
_PIN = numbered(
    r"[0-9]{4,8}(?![0-9])",
    least=4,
    back=r"(?<![A-Z])pin(?: ?(?:code|number|no))?(?: (?:is|was|to|of)| ?[:=#])? {1,2}",
    reach=22,
)
_KEY = re.compile(
    r"(?<![A-Za-z0-9_])(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{8,}|(?:AKIA|ASIA)[A-Z0-9]{16}|"
    r"gh[pousr]_[A-Za-z0-9]{20,}|xox[abprs]-[A-Za-z0-9\-]{10,}|"
    r"eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*)?|"
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[A-Za-z0-9+/=\s]*(?:-----END [A-Z ]*PRIVATE KEY-----)?"
)
_KEY_SIGNS = (
    "_live_",
    "_test_",
    "AKIA",
    "ASIA",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "xoxa-",
    "xoxb-",
    "xoxp-",
    "xoxr-",
    "xoxs-",
    "eyJ",
    "-----BEGIN",
)
_NO_SECRET = re.compile(
    r"(?:reset|changed?|was|is|not|incorrect|wrong|invalid|expired|required|the|a|my|protected|"
    r"please|correct|and|or|for|to|be|been|being|that|with|in|on|no|never|always|also|still|too)"
    r"[.,;:!?]?$"
)


def secrets(text: str) -> Iterator[Place]:
    """Passwords, pins, codes and keys that are told."""
    low = lowered(text)
    if any_in(low, _SECRET_WORDS):
        for match in _told(low):
            start, end = match.span("value")
            while end > start and text[end - 1] in ".,;:!?)":
                end -= 1
            told = text[start:end]
            # `password is forgotten`: a word, not a secret, unless a colon stands there.
            a_word = told.isalpha() and told.islower() and not re.search("[:=]", match[0])
            if told and not a_word and not _NO_SECRET.match(low, start, end):
                yield start, end
    yield from _PIN(text)
    if any_in(text, _KEY_SIGNS):
        for match in _KEY.finditer(text):
            yield match.span()


def _told(low: str) -> Iterator[re.Match[str]]:
    for word in _SECRET_WORDS:
        place = low.find(word)
        while place >= 0:
            match = _SECRET.match(low, place)
            if match:
                yield match
            place = low.find(word, place + len(word))


_SECRET_WORDS = (
    "password",
    "pass word",
    "passcode",
    "pass code",
    "passphrase",
    "pass phrase",
    "pwd",
    "passwd",
    "secret",
    "api",
    "access",
    "auth",
    "bearer",
    "one-time",
    "one time",
    "otp",
    "verification",
    "token",
)
