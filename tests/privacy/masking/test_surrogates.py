"""Surrogates are consistent under one key, unrelated under another, and nobody's."""

import re
from datetime import date, timedelta
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.masking.checksums import iban_holds, luhn_holds, vin_holds
from privacy.masking.config import ENTITY_TYPES
from privacy.masking.dates import shifted
from privacy.masking.draw import Draw
from privacy.masking.reserved import alphanumerics
from privacy.masking.surrogates import SurrogateKey, Surrogates

KEY, OTHER = SurrogateKey(bytes(range(32))), SurrogateKey(bytes(range(1, 33)))
VALUES = {
    "ACCOUNT_NUMBER": "4482-1190-337",
    "AGE": "93 years",
    "CREDIT_CARD": "4111 1111 1111 1111",
    "CUSTOMER_ID": "KD-4482190",
    "CVV": "737",
    "DATE": "14 March 2019",
    "DEVICE_ID": "00:1B:44:11:3A:B7",
    "EMAIL": "jane.doe@hospital.test",
    "HEALTH_PLAN_NUMBER": "XQ 443 118 20",
    "IBAN": "GB82 WEST 1234 5698 7654 32",
    "IP_ADDRESS": "192.0.2.44",
    "LICENCE_NUMBER": "MORGA753116SM9IJ",
    "LOCATION": "12 Elm Street, Springfield",
    "PASSPORT": "G12345678",
    "PASSWORD": "hunter2!",
    "PERSON": "Jane Doe",
    "PHONE": "(202) 555-0143",
    "RECORD_NUMBER": "00482913",
    "RESIDENT_ID": "11010519491231002X",
    "ROUTING_NUMBER": "021000021",
    "SOCIAL_CREDIT_CODE": "91350100M000100Y43",
    "SORT_CODE": "40-47-84",
    "SSN": "078-05-1120",
    "SWIFT": "DEUTDEFF500",
    "URL": "https://clinic.test/p?id=4",
    "VEHICLE": "京A12345",
}
cards = st.integers(12, 19).flatmap(lambda n: st.text("0123456789", min_size=n, max_size=n))
any_value = st.text(st.characters(), min_size=1, max_size=40)


@cache
def surrogates(key: SurrogateKey = KEY) -> Surrogates:
    return Surrogates(key)


def of(entity_type: str, value: str, *, subject: str = "p1", key: SurrogateKey = KEY) -> str:
    return surrogates(key).of(entity_type, value, subject=subject)


def test_every_type_has_an_example() -> None:
    assert set(VALUES) == set(ENTITY_TYPES)


@pytest.mark.parametrize("entity_type", ENTITY_TYPES)
def test_a_surrogate_is_another_value_the_same_each_time_and_another_at_another_site(
    entity_type: str,
) -> None:
    value = VALUES[entity_type]
    made = of(entity_type, value)
    assert made == Surrogates(KEY).of(entity_type, value, subject="p1")
    assert alphanumerics(value) not in alphanumerics(made)
    assert "[" not in made
    if entity_type != "AGE":  # all are 90+
        assert made != of(entity_type, value, key=OTHER)


@given(st.sampled_from(ENTITY_TYPES), any_value)
def test_any_text_has_a_surrogate_that_is_the_same_again_and_is_not_itself(
    entity_type: str, value: str
) -> None:
    made = of(entity_type, value)
    assert made
    assert made == of(entity_type, value)
    if any(character.isalnum() for character in value) and entity_type != "AGE":
        assert made != value


def test_spelling_spaces_and_width_make_no_other_value() -> None:
    plain = alphanumerics(of("CREDIT_CARD", "4111111111111111"))
    for spelt in (
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "４１１１１１１１１１１１１１１１",
        "4111\u200b1111\ufe0f1111\u31641111",
        "4\u03361\u20e31\u03011111\u115f11111111\u034f1",
        "٤١١١ ११११ 1111 1111",
    ):
        assert alphanumerics(of("CREDIT_CARD", spelt)) == plain
    assert of("EMAIL", "Jane.Doe@Hospital.test") == of("EMAIL", "jane.doe@hospital.test")


def holds_a_card(digits: str) -> bool:
    """Whether 12 to 19 neighbouring digits somewhere in `digits` pass Luhn's check."""
    return any(
        luhn_holds(digits[start : start + length])
        for length in range(12, min(19, len(digits)) + 1)
        for start in range(len(digits) - length + 1)
    )


@given(cards)
def test_no_stretch_of_a_cards_surrogate_is_a_card(digits: str) -> None:
    made = of("CREDIT_CARD", digits)
    assert len(made) == len(digits)
    assert made.isdecimal()
    assert not luhn_holds(made)
    assert not holds_a_card(made)


@given(st.text("0123456789", min_size=12, max_size=60), st.sampled_from(ENTITY_TYPES))
def test_digits_of_any_type_never_become_a_card(digits: str, entity_type: str) -> None:
    if entity_type in ("ACCOUNT_NUMBER", "RECORD_NUMBER", "DEVICE_ID", "CUSTOMER_ID", "VEHICLE"):
        assert not holds_a_card(of(entity_type, digits))


@given(st.integers(10**8, 10**9 - 1))
def test_a_social_security_number_is_one_that_was_never_assigned(number: int) -> None:
    text = f"{number}"
    made = of("SSN", f"{text[:3]}-{text[3:5]}-{text[5:]}")
    assert made.startswith("000-")
    assert len(made) == 11


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("(202) 555-0143", r"\([2-5]9\d\) 555-01\d\d"),
        ("1-303-555-0143", r"1-[2-5]9\d-555-01\d\d"),
        ("+1 303 555 0143", r"\+1 [2-5]9\d 555 01\d\d"),
        ("555-0143", r"555-01\d\d"),
        ("303.555.0143 ext. 12", r"[2-5]9\d\.555\.01\d\d ext\. \d\d"),
        ("13812345678", r"10\d{9}"),
        ("138-1234-5678", r"10\d-\d{4}-\d{4}"),
        ("+86 138 1234 5678", r"\+99 9\d\d \d{4} \d{4}"),
        ("+49 30 1234567", r"\+99 9\d \d{7}"),
        ("020 7946 0123", r"009 99\d\d \d{4}"),
        ("010-62345678", r"009-99\d{6}"),
    ],
)
def test_a_phone_number_is_one_that_no_plan_gives_out(value: str, expected: str) -> None:
    assert re.fullmatch(expected, of("PHONE", value)), of("PHONE", value)


@given(st.sampled_from(["GB82WEST12345698765432", "DE89370400440532013000", "NO9386011117947"]))
def test_an_ibans_surrogate_keeps_country_and_length_and_fails_its_check(value: str) -> None:
    assert iban_holds(value)
    made = of("IBAN", value)
    assert (made[:2], len(made)) == (value[:2], len(value))
    assert made[2:4] in ("00", "01")
    assert not iban_holds(made)


def resident_check(body: str) -> str:
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(int(digit) * weight for digit, weight in zip(body, weights, strict=True))
    return "10X98765432"[total % 11]


@given(st.text("0123456789", min_size=17, max_size=17))
def test_a_resident_ids_surrogate_has_no_region_and_a_wrong_check_character(body: str) -> None:
    assert resident_check("11010519491231002") == "X"  # the standard's own example
    made = of("RESIDENT_ID", body + resident_check(body))
    assert made.startswith("99")
    assert made[-1] != resident_check(made[:17])


@given(st.text("0123456789", min_size=9, max_size=9))
def test_a_routing_numbers_surrogate_fails_its_check(value: str) -> None:
    made = of("ROUTING_NUMBER", value)
    weights = (3, 7, 1, 3, 7, 1, 3, 7, 1)
    assert sum(int(d) * w for d, w in zip(made, weights, strict=True)) % 10 != 0
    assert made.startswith("99")


def test_addresses_are_those_kept_for_documents() -> None:
    assert of("EMAIL", "a@b.test").endswith("@example.org")
    assert of("URL", "https://x.test/1").startswith("https://www.example.org/")
    assert int(of("IP_ADDRESS", "8.8.8.8").split(".")[0]) >= 240
    assert of("IP_ADDRESS", "fe80::1").startswith("2001:db8:")


@pytest.mark.parametrize(
    ("value", "pattern"),
    [
        ("Jane Doe", r"[A-Z][a-z]+ [A-Z][a-z]+"),
        ("JANE DOE", r"[A-Z]+ [A-Z]+"),
        ("Dr. Smith", r"Dr\. [A-Z][a-z]+"),
        ("J. R. Smith-Jones", r"[A-Z]\. [A-Z]\. [A-Z][a-z]+-[A-Z][a-z]+"),
        ("张三", r"[\u4e00-\u9fff]{2}"),
        ("欧阳志远", r"[\u4e00-\u9fff]{3}"),
        ("Иван Петров", r"[\u0400-\u042f][\u0430-\u045f]{3} [\u0400-\u042f][\u0430-\u045f]{5}"),
        ("Ελένη", r"[\u0370-\u03ff]{5}"),
    ],
)
def test_a_name_becomes_a_name_of_the_same_script(value: str, pattern: str) -> None:
    assert re.fullmatch(pattern, of("PERSON", value)), of("PERSON", value)


@pytest.mark.parametrize(
    ("value", "gone", "kept"),
    [
        ("John West", "West", ""),
        ("Mr. James Street", "Street", "Mr. "),
        ("Anna North", "North", ""),
        ("Dr. Lois Lane", "Lane", "Dr. "),
        ("王建生", "生", ""),
        ("王建生先生", "生王建", ""),
        ("李医生", "李", ""),
    ],
)
def test_no_word_of_a_name_stays_but_the_title(value: str, gone: str, kept: str) -> None:
    for number in range(30):
        made = of("PERSON", value, key=SurrogateKey(bytes([number] * 32)))
        assert made.startswith(kept)
        body = made.removesuffix("先生").removesuffix("医生")
        assert gone not in made.split()
        if not value.isascii():
            assert not set(gone) & set(body)
            assert value.endswith("先生") == made.endswith("先生")


@given(st.text("ABCDEFGHJKLMNPRSTUVWXYZ0123456789", min_size=17, max_size=17))
def test_a_vehicles_surrogate_fails_the_check_of_vins(value: str) -> None:
    assert not vin_holds(of("VEHICLE", value))


def test_a_word_of_a_name_is_the_same_wherever_it_stands() -> None:
    first, last = of("PERSON", "Jane Doe").split()
    assert of("PERSON", "Dr. Doe") == f"Dr. {last}"
    assert of("PERSON", "Doe, Jane") == f"{last}, {first}"
    assert of("PERSON", "张三")[0] == of("PERSON", "张小明")[0]


def test_an_address_keeps_its_form() -> None:
    made = of("LOCATION", "北京市朝阳区建国路88号")
    assert [made[2], made[5], made[8], made[11]] == ["市", "区", "路", "号"]
    assert not set("北京朝阳建国") & set(made)
    made = of("LOCATION", "12 Elm Street, Springfield 62704")
    assert " Street, " in made
    assert made[-5:].startswith("000")


@given(st.dates(date(1900, 1, 1), date(2100, 1, 1)), st.integers(0, 20000), st.text(max_size=8))
def test_the_days_between_dates_of_one_subject_stay(first: date, gap: int, subject: str) -> None:
    second = first + timedelta(days=gap)
    moved = [
        date.fromisoformat(of("DATE", day.isoformat(), subject=subject)) for day in (first, second)
    ]
    assert moved[1] - moved[0] == second - first
    assert (moved[0] - first).days % 7 != 0
    assert moved[0] < first


def test_subjects_move_by_different_numbers_of_days() -> None:
    days = {surrogates().shift_days(f"p{number}") for number in range(300)}
    assert len(days) > 200
    assert all(-1460 <= shift <= -31 and shift % 7 for shift in days)
    assert surrogates(OTHER).shift_days("p1") != surrogates().shift_days("p1")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2019-03-14", "2019-03-04"),
        ("2019/3/4", "2019/2/22"),
        ("20190314", "20190304"),
        ("3/14/2019", "3/4/2019"),
        ("14/03/2019", "04/03/2019"),
        ("04.03.19", "22.02.19"),
        ("14 March 2019", "4 March 2019"),
        ("the 14th", None),
        ("March 3rd, 2019", "February 21st, 2019"),
        ("SEPT 05, 2019", "AUG 26, 2019"),
        ("5 Jan '19", "26 Dec '18"),
        ("March 2019", "March 2019"),
        ("12 May", "2 May"),
        ("2019年3月4日", "2019年2月22日"),
        ("3月4日", "2月23日"),
        ("2019", "2019"),
        ("31/02/2019", None),
        ("last Tuesday", None),
        ("2019-03-14T08:30:00Z", "2019-03-04T08:30:00Z"),
        ("9999-03-14", None),
    ],
)
def test_a_date_keeps_the_way_in_which_it_is_written(written: str, expected: str | None) -> None:
    assert shifted(written, -10) == expected


def test_what_is_no_date_that_can_be_read_becomes_the_placeholder() -> None:
    assert of("DATE", "Michaelmas") == "[DATE]"


@pytest.mark.parametrize(
    "hidden", ["\u200b", "\u3164", "\u115f", "\ufe0f", "\u034f", "\u0336", "\U000e0020"]
)
def test_what_hides_digits_is_in_no_surrogate_and_does_not_change_its_form(hidden: str) -> None:
    for entity_type, value in (
        ("PHONE", "2025550143"),
        ("RESIDENT_ID", "11010519491231002X"),
        ("SSN", "078051120"),
        ("ACCOUNT_NUMBER", "44821190337"),
    ):
        made = of(entity_type, hidden.join(value))
        assert made == of(entity_type, value)
        assert len(made) == len(value)
    assert of("DATE", "2019-0３-1" + hidden + "4") == of("DATE", "2019-03-14")


@pytest.mark.parametrize("written", ["14 March", "3月14日", "2019", "12/24"])
def test_a_date_that_would_stay_the_same_becomes_the_placeholder(
    monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    days = -60 if written == "2019" else -366
    monkeypatch.setattr(Surrogates, "shift_days", lambda self, subject: days)
    assert of("DATE", written) == "[DATE]"
    assert of("DATE", "2019-03-14") != "[DATE]"


def test_a_key_shows_its_number_and_never_itself() -> None:
    assert KEY.key_id != OTHER.key_id
    assert len(KEY.key_id) == 16
    assert KEY.secret.hex() not in repr(KEY)
    with pytest.raises(ValueError, match="32 bytes, got 3"):
        SurrogateKey(b"abc")


def test_draws_are_even() -> None:
    counts = [0] * 10
    for number in range(2000):
        counts[Draw(KEY.secret, "X", str(number)).below(10)] += 1
    assert min(counts) > 140
    assert max(counts) < 260


def test_an_age_is_of_the_group_or_hidden_and_never_itself() -> None:
    assert of("AGE", "93 years") == "90+ years"
    assert of("AGE", "90") == "[AGE]"
