"""Words beside a name: titles, relatives, signatures, hospitals, instruments.

`cued_names` finds what follows or precedes such a word even where it is an ordinary word or
written small: `my name is rose`, `Regards, Will`, `Rose Day, MD`.
"""

import re
from collections.abc import Iterator

from privacy.masking.english.words import plain_word, words
from privacy.masking.patterns import Place, lowered

TITLES = frozenset({"dr", "mr", "mrs", "ms", "miss", "prof", "professor", "sir", "mister", "drs", "mx"})
PLACE_NOUNS = frozenset(
    "hospital clinic center centre infirmary hospice university college institute school "
    "street avenue road boulevard lane drive county city township village parish church "
    "langone pharmacy sanatorium rehab".split()
)
PLACE_PREFIXES = frozenset(
    "new north south east west los las san santa saint st ste fort mount mt lake port upper lower el "
    "la le van von der den de del della di da bin ibn al du dos das ter ten".split()
)
BEFORE_NAME = frozenset("to for from with its owe named called wife husband".split())
BEFORE_PLACE = frozenset("in at from near to visited residing lives moved".split())
# Beside these a capitalised word belongs to a heading or a product, not to a person.
JOINS_NAME = frozenset("the a an this that these those your my our his her their".split())
GENERIC = frozenset(
    "the of and for general emergency outpatient inpatient pain local regional university medical "
    "community children childrens heart cancer surgery surgical rehabilitation rehab care health "
    "healthcare urgent primary family women womens eye dental wound sleep day county city state "
    "public private teaching veterans memorial our this that call data service support contact "
    "customer city business shopping financial".split()
)
MEDICAL_NOUNS = frozenset(
    "disease diseases syndrome syndromes sign signs test tests score scores scale criteria grade "
    "stage class classification catheter catheters clamp clamps retractor retractors forceps "
    "scissors elevator elevators needle needles drain drains tube tubes bag balloon suture sutures "
    "stitch knot position procedure operation repair technique maneuver manoeuvre method fracture "
    "fractures cyst cysts abscess hernia hernias canal ligament fascia pouch tendon muscle node nodes "
    "nodule nodules body bodies cell cells gland glands duct lymphoma sarcoma tumor tumour carcinoma "
    "esophagus oesophagus palsy chorea thyroiditis ulcer contracture deformity lesion phenomenon "
    "reflex reflexes dystrophy anemia anaemia dementia hook hooks curette curettes rongeur rongeurs "
    "speculum tenaculum rasp saw blade blades pin pins wire wires screw screws nail plate plates "
    "stapler trocar trocars cannula laser monitor pump stent stents graft valve valves filter port "
    "device splint cast boot brace collar stand table frame tongs dressing gauze stain agar medium "
    "ultrasound ring rings loop line lines space triangle area plaque plaques membrane tubercle "
    "tuberosity apparatus prosthesis implant implants implantation cup stem anastomosis incision "
    "approach block anesthesia solution cautery electrocautery probe dilator dilators dilation snare "
    "exam examination index scan study studies law theory virus fever nerve fundoplication gastrectomy "
    "reaction band cream ointment powder gel tablet tablets injection".split()
)
# Words that no cue turns into a name.
_NO_NAMES = frozenset(
    "not no yes a an the is was are were be been so very really just still also now here there this "
    "that it he she they we you i my your his her and or but of on in at to for from with by as if "
    "unknown none same correct wrong right pending please being going trying having getting on the "
    "misspelled spelled listed shown showing used removed added changed different under".split()
)
_SMALL = r"[^\W\d_][\w'\u2019\-]{1,24}"
_AFTER_CUE = re.compile(rf" {{1,2}}(?P<names>{_SMALL}(?: {_SMALL}){{0,2}})")
# Begins with letters that few words have: the scan is fast.
_NAME_CUE = re.compile(
    r"name(?:s?(?: is|['\u2019]s|:| was|:? -)|d)|surname|nickname(?: is)?|spelled"
)
_TITLE_CUE = re.compile(r"[ \n(](?:mrs?|ms|dr|prof|mx)\.?(?= )")
_CAPITALISED = r"[A-Z][\w'\u2019\-]*\.?"
_SEQUENCE = rf"{_CAPITALISED}(?: {_CAPITALISED}){{0,3}}"
_SIGN_OFFS = (
    "sincerely", "regards", "thanks", "thank you", "yours truly", "yours faithfully", "cheers",
    "respectfully", "best wishes",
)
_SIGNED = re.compile(
    rf"(?: yours)?[,.!]?\s{{1,3}}(?P<names>{_SEQUENCE})(?=\s*(?:$|\n|,|\.))"
)
_BY = ("signed by", "dictated by", "transcribed by", "reviewed by", "referred by")
_LABEL = re.compile(
    r"(?<![a-z])(?:names?|attending|physician|surgeon|assistant|provider|clinician|caregiver|"
    r"guarantor|beneficiary|payee|spouse|cardholder|account holder|next of kin|"
    r"emergency contact|signed by|dictated by|transcribed by|reviewed by|referred by) ?$"
)
_LABELLED = re.compile(rf"[ \t]*(?P<names>{_SEQUENCE})(?=[ \t]*(?:$|\n|,|;|\.|\())")
_CREDENTIALS = re.compile(
    r"(?:M\.?D|D\.?O|R\.?N|Ph\.?D|D\.?D\.?S|F\.?A\.?C\.?[SP]|N\.?P|P\.?A-C)\b"
)
_BEFORE_CREDENTIALS = re.compile(
    r"(?<![\w])([A-Z][\w'\u2019\-]+ (?:[A-Z]\.? )?[A-Z][\w'\u2019\-]+),? {1,2}$"
)
_HANDLE = re.compile(r"@([A-Za-z_]\w{2,})")


def cued_names(text: str) -> Iterator[Place]:
    """Names that the words beside them give away."""
    low = lowered(text)
    yield from _after_cue(text, low)
    for word in _SIGN_OFFS:
        yield from _following(text, low, word, _SIGNED)
    for word in _BY:
        yield from _following(text, low, word, _LABELLED)
    colon = text.find(":")
    while colon >= 0:
        match = _LABELLED.match(text, colon + 1)
        if (
            match
            and _LABEL.search(low, max(0, colon - 20), colon)
            and not _all_safe(match["names"])
        ):
            yield match.span("names")
        colon = text.find(":", colon + 1)
    for match in _CREDENTIALS.finditer(text):
        if text[match.start() - 1 : match.start()] == " ":
            before = _BEFORE_CREDENTIALS.search(text, max(0, match.start() - 60), match.start())
            if before:
                yield before.span(1)
    if "@" in text:
        safe = words().safe
        for match in _HANDLE.finditer(text):
            if not text[match.start() - 1 : match.start()].isalnum() and match[1].lower() not in safe:
                yield match.span(1)


def _following(text: str, low: str, word: str, pattern: re.Pattern[str]) -> Iterator[Place]:
    """What `pattern` finds directly after each `word`."""
    place = low.find(word)
    while place >= 0:
        match = pattern.match(text, place + len(word))
        if match and not _all_safe(match["names"]):
            yield match.span("names")
        place = low.find(word, place + 1)


def _after_cue(text: str, low: str) -> Iterator[Place]:
    """One word after the cue, and the next ones while they are no ordinary words."""
    safe = words().safe
    cues = [match.end() for match in _TITLE_CUE.finditer(low)]
    cues += [match.end() for match in _NAME_CUE.finditer(low)]
    first = _TITLE_CUE.match(" " + low[:8])
    if first:
        cues.append(first.end() - 1)
    for cue in cues:
        match = _AFTER_CUE.match(low, cue)
        if match is None:
            continue
        start, end = match.start("names"), match.start("names")
        for place in re.finditer(_SMALL, match["names"]):
            word = plain_word(place[0])
            ordinary = word in _NO_NAMES or (
                end > start and word in safe and word not in words().after_first
            )
            if ordinary and not (
                end > start and text[start + place.start()].isupper() and word not in _NO_NAMES
            ):
                break
            end = match.start("names") + place.end()
        if end > start:
            yield start, end


def _all_safe(names: str) -> bool:
    """`Name: Unknown`, `Surgeon: None`: one ordinary word that is no first name."""
    lists = words()
    parts = [plain_word(part.strip(".")) for part in names.split()]
    return len(parts) != 2 and all(
        part in lists.safe and part not in lists.either for part in parts
    )
