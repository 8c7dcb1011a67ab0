"""Each rule finds its type beside any neighbour, and leaves ordinary text alone."""

import unicodedata

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from privacy.masking.config import ENTITY_TYPES
from privacy.masking.mask import mask, merge
from privacy.masking.recognisers import find

EXAMPLES = {
    "CREDIT_CARD": (
        "4111111111111111",
        "4111 1111 1111 1111",
        "5555-5555-5555-4444",
        "3782 822463 10005",
        "3056 930902 5904",
        "501800000009",
        "6205500000000000004",
    ),
    "DATE": (
        "2019-03-14",
        "3/14/2019",
        "14/03/2019",
        "03-14-19",
        "14.03.2019",
        "20190314",
        "March 14, 2019",
        "Mar 14th 2019",
        "14 March 2019",
        "14th of March 2019",
        "14-Mar-19",
        "March 2019",
        "May 5",
        "5 December",
        "Thursday, 16th November",
        "saturday, 28 Feb 2015",
        "23-febrero-1931",
        "12 de junio de 2002",
        "septiembre del 2000",
        "febrero y abril de 2002",
        "14 mars 2019",
        "3. Oktober 2019",
    ),
    "EMAIL": (
        "jane.doe@example.org",
        "j+tag@mail.example.co.uk",
        "JANE_DOE@EXAMPLE.COM",
        "o'neil@example.com",
        "rené@example.fr",
        "иван@пример.рф",
        "jane.doe@ example.org",
        "jdoe@mercy",
    ),
    "IBAN": (
        "GB82WEST12345698765432",
        "GB82 WEST 1234 5698 7654 32",
        "de89 3704 0044 0532 0130 00",
        "FR14 20041 01005 0500013M026 06",
        "MT84MALT011000012345MTLCAST001S",
        "NO93-8601-1117-947",
    ),
    "IP_ADDRESS": (
        "192.0.2.44",
        "255.255.255.255",
        "2001:db8::ff00:42:8329",
        "fe80::1",
        "::1",
        "2001:0db8:85a3:0000:0000:8a2e:0370:7334",
        "::ffff:192.0.2.128",
        "dead:beef:dead:beef:dead:beef:dead:beef",
    ),
    "PHONE": (
        "(202) 555-0143",
        "202-555-0143",
        "202.555.0143",
        "1-800-555-0143",
        "+1 202 555 0143",
        "+44 20 7946 0958",
        "+4915123456789",
        "020 7946 0958",
        "07700 900123",
        "01 23 45 67 89",
        "2025550143",
        "555-0143",
        "202-555-0143 ext. 12",
        "(02328) 60129",
        "05366/97251027",
        "729 825 979",
        "98 25 97 91",
    ),
    "RECORD_NUMBER": ("00482913", "1234567890123", "AB1234567", "HN-204881"),
    "SSN": ("078-05-1120", "078 05 1120", "999-12-3456"),
    "URL": (
        "https://www.example.org/a?b=c#d",
        "http://example.com",
        "http://[2001:db8::1]:8080/x",
        "www.example.org",
        "example.org/patients/17",
        "ftp://files.example.net/x",
    ),
}
IN_CONTEXT = {
    "MRN: 48213": "48213",
    "medical record number is A-4821": "A-4821",
    "Account no. 4431-22": "4431-22",
    "patient id 77120/4": "77120/4",
    "card ending in 4242": "4242",
    "SSN 078051120": "078051120",
    "HBN: 789-456-123": "789-456-123",
    "(ins. #789-1234-567)": "789-1234-567",
    "admitted on 08/22 with": "08/22",
    "call 5550143 now": "5550143",
    "N\u00baCol: 28 28": "28 28",
    "NHC:  3762723": "3762723",
    "CIPA: nhc/976421": "nhc/976421",
}
ORDINARY = (
    "BP 120/80, HR 72, temp 38.5, SpO2 97% on 2 L, glucose 5.4 mmol/L at 10:30",
    "Take 500 mg twice daily for 10-14 days; 3 of 5 patients may improve.",
    "I paid $1,250.00 and {$3.00} of $43000.00 at 12.5 % in 2019.",
    "XXXX XX/XX/23 [**Name**] [** 2019 **] XXXX XXXX",
    "pain went from 8/10 to 3/10 after 2/3 of the dose on day #2",
    "T12 fracture, C5-C6 disc, HbA1c, CD4 count 350, p53, IL-6, Q12h",
    "the payday loan is 799.39 % and the patient is 100% compliant",
    "std::vector, see section 1.2.3 or chapter 10.4.",
    "Payday loan, title loan, or personal loan | Problem when making payments",
)
# ASCII letters and digits, and signs that are part of numbers and addresses, are not beside an
# identifier but of it.
NEIGHBOURS = st.characters(exclude_categories=["Cs", "Nd"]).filter(
    lambda character: not character.isascii() and not "\u00c0" <= character <= "\u1fff"
)
CASES = [(kind, text) for kind, texts in EXAMPLES.items() for text in texts]


def masked(text: str, *kinds: str) -> str:
    return mask(text, merge(find(text, kinds or ENTITY_TYPES)))


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_each_type_is_found_whole(kind: str, text: str) -> None:
    assert masked(text, kind) == f"[{kind}]"
    assert masked(f"It is {text}, they said.", kind) == f"It is [{kind}], they said."
    assert masked(f"({text})", kind) == f"([{kind}])"


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_the_type_is_right_among_all_types(kind: str, text: str) -> None:
    assert masked(text) == f"[{kind}]"


@pytest.mark.parametrize(("text", "value"), IN_CONTEXT.items())
def test_a_cue_makes_a_number_personal_and_stays(text: str, value: str) -> None:
    assert value not in masked(text)
    assert masked(text).startswith(text.partition(value)[0] + "[")


def test_the_second_of_two_phones_is_found() -> None:
    assert masked("Tfno. 956 203 145 y 956 203 146.", "PHONE") == "Tfno. [PHONE] y [PHONE]."


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert masked(text) == text


@given(st.sampled_from(CASES), NEIGHBOURS, NEIGHBOURS)
@example(("CREDIT_CARD", "4111111111111111"), "卡", "号")
@example(("EMAIL", "jane.doe@example.org"), "邮", "谢")
@example(("DATE", "2019-03-14"), "在", "日")
@example(("URL", "www.example.org"), "见", "。")
def test_a_neighbour_hides_nothing(case: tuple[str, str], left: str, right: str) -> None:
    kind, text = case
    assume(not {unicodedata.category(left), unicodedata.category(right)} & {"Cf"})
    result = masked(left + text + right, kind)
    assert f"[{kind}]" in result
    assert text not in result
    # Full-width letters and unusual hyphens are read as their ASCII likes and may belong to it.
    if not any("\uff01" <= c <= "\uff5e" or unicodedata.category(c) == "Pd" for c in left + right):
        assert result == f"{left}[{kind}]{right}"


@pytest.mark.parametrize("kind", ["CREDIT_CARD", "SSN", "DATE", "PHONE"])
@pytest.mark.parametrize("letter", "aZé_")
def test_letters_hide_no_number(kind: str, letter: str) -> None:
    text = EXAMPLES[kind][0]
    assert masked(letter + text + letter, kind) == f"{letter}[{kind}]{letter}"


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111111".translate({ord(str(n)): 0xFF10 + n for n in range(10)}),
        "4111 1111 1111 1111".translate({ord(str(n)): 0x0660 + n for n in range(10)}),
        "4111\u00a01111\u00a01111\u00a01111",
        "4111\u20111111\u20111111\u20111111",
        "4111\u200b1111\u200b1111\u200b1111",
        "4111\u2009-\u20091111 1111 1111",
    ],
)
def test_other_scripts_and_invisible_characters_hide_no_card(text: str) -> None:
    assert masked(f"card {text}.", "CREDIT_CARD") == "card [CREDIT_CARD]."


# Marks, and characters that no screen shows although they are of no format category.
HIDING = "\ufe0f\ufe00\U000e0100\U000e01ef\u034f\u115f\u1160\u17b4\u180b\u180f\u3164\uffa0\u200b"
HIDING_MARKS = HIDING + "\u0301\u20dd\u0336"


@given(st.data())
def test_nothing_invisible_hides_a_number(data: st.DataObject) -> None:
    kind, number = data.draw(
        st.sampled_from([("CREDIT_CARD", "4111 1111 1111 1111"), ("SSN", "078-05-1120")])
    )
    between = data.draw(
        st.lists(
            st.text(HIDING_MARKS, max_size=2), min_size=len(number) - 1, max_size=len(number) - 1
        )
    )
    # A mark on a space or a hyphen is no mark on a digit.
    text = number[0] + "".join(
        "".join(c for c in hidden if before.isdigit() or c in HIDING) + after
        for before, hidden, after in zip(number, between, number[1:], strict=False)
    )
    assert masked(f"card {text}.", kind) == f"card [{kind}]."


@pytest.mark.parametrize(
    "text",
    [
        "4\ufe0f111 1111 1111 1111",
        "078\ufe0f-05-1120",
        "078\u3164-05-1120",
        "4\u034f111 1111 1111 1111",
    ],
)
def test_a_digit_shown_as_a_picture_is_a_digit(text: str) -> None:
    assert masked(text, "CREDIT_CARD", "SSN") in ("[CREDIT_CARD]", "[SSN]")


def test_a_card_is_found_between_other_numbers() -> None:
    text = "on 12 4111 1111 1111 1111 12/26 123"
    assert masked(text, "CREDIT_CARD") == "on 12 [CREDIT_CARD] 12/26 123"


def test_a_wrong_check_digit_is_no_card_and_no_iban() -> None:
    for text in ("4111111111111112", "GB82 WEST 1234 5698 7654 33"):
        assert masked(text, "CREDIT_CARD", "IBAN") == text


def test_eleven_and_twenty_digits_are_no_card() -> None:
    for text in ("00000000000", "0" * 20):
        assert masked(text, "CREDIT_CARD") == text


def test_what_overlaps_is_masked_whole() -> None:
    assert masked("https://example.org/?u=jane@example.org") == "[URL]"


@pytest.mark.parametrize(
    "piece",
    [
        "1",
        "1 ",
        "a.",
        "a@",
        "a@a.",
        "1:",
        "0-",
        "GB82",
        "www.",
        "a",
        "id ",
        "1.2.",
        "1/",
        "May 1",
        "é",
        "Ab ",
        "Mary ",
        "A. ",
        "dr ",
        "Dr. ",
        "name is ",
        "qzx ",
        "@aa",
        "at St ",
        "1 A ",
        "MD ",
        "Hospital ",
        "A:",
        "live in ",
        "pin 1",
    ],
)
@pytest.mark.timeout(10)
def test_no_text_takes_long(piece: str) -> None:
    find(piece * (20_000 // len(piece)) + "@", ENTITY_TYPES)
