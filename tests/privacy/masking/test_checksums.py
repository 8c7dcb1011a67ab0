"""Check digits against numbers that card networks, ISO and central banks publish as examples."""

import pytest
from presidio_analyzer.predefined_recognizers.generic.iban_patterns import regex_per_country

from privacy.masking.checksums import IBAN_LENGTHS, iban_holds, luhn_holds

# Test numbers of the card networks, as payment processors publish them.
CARDS = (
    "378282246310005",
    "371449635398431",
    "5610591081018250",
    "30569309025904",
    "38520000023237",
    "6011111111111117",
    "6011000990139424",
    "3530111333300000",
    "3566002020360505",
    "5555555555554444",
    "5105105105105100",
    "4111111111111111",
    "4012888888881881",
    "4222222222222",
    "6304000000000000",
    "4000056655665556",
    "6362970000457013",
    "501800000009",
    "6771798021000008",
    "6205500000000000004",
)
# Examples of the SWIFT IBAN registry.
IBANS = (
    "AD1200012030200359100100",
    "AE070331234567890123456",
    "AL47212110090000000235698741",
    "AT611904300234573201",
    "AZ21NABZ00000000137010001944",
    "BA391290079401028494",
    "BE68539007547034",
    "BG80BNBG96611020345678",
    "BH67BMAG00001299123456",
    "BR1800360305000010009795493C1",
    "BY13NBRB3600900000002Z00AB00",
    "CH9300762011623852957",
    "CR05015202001026284066",
    "CY17002001280000001200527600",
    "CZ6508000000192000145399",
    "DE89370400440532013000",
    "DK5000400440116243",
    "DO28BAGR00000001212453611324",
    "EE382200221020145685",
    "ES9121000418450200051332",
    "FI2112345600000785",
    "FO6264600001631634",
    "FR1420041010050500013M02606",
    "GB29NWBK60161331926819",
    "GE29NB0000000101904917",
    "GI75NWBK000000007099453",
    "GL8964710001000206",
    "GR1601101250000000012300695",
    "GT82TRAJ01020000001210029690",
    "HR1210010051863000160",
    "HU42117730161111101800000000",
    "IE29AIBK93115212345678",
    "IL620108000000099999999",
    "IQ98NBIQ850123456789012",
    "IS140159260076545510730339",
    "IT60X0542811101000000123456",
    "JO94CBJO0010000000000131000302",
    "KW81CBKU0000000000001234560101",
    "KZ86125KZT5004100100",
    "LB62099900000001001901229114",
    "LC55HEMM000100010012001200023015",
    "LI21088100002324013AA",
    "LT121000011101001000",
    "LU280019400644750000",
    "LV80BANK0000435195001",
    "MC5811222000010123456789030",
    "MD24AG000225100013104168",
    "ME25505000012345678951",
    "MK07250120000058984",
    "MR1300020001010000123456753",
    "MT84MALT011000012345MTLCAST001S",
    "MU17BOMM0101101030300200000MUR",
    "NL91ABNA0417164300",
    "NO9386011117947",
    "PK36SCBL0000001123456702",
    "PL61109010140000071219812874",
    "PS92PALS000000000400123456702",
    "PT50000201231234567890154",
    "QA58DOHB00001234567890ABCDEFG",
    "RO49AAAA1B31007593840000",
    "RS35260005601001611379",
    "SA0380000000608010167519",
    "SC18SSCB11010000000000001497USD",
    "SE4550000000058398257466",
    "SI56263300012039086",
    "SK3112000000198742637541",
    "SM86U0322509800000000270100",
    "TN5910006035183598478831",
    "TR330006100519786457841326",
    "UA213223130000026007233566001",
    "VA59001123000012345678",
    "VG96VPVG0000012345678901",
    "XK051212012345678906",
)


@pytest.mark.parametrize("card", CARDS)
def test_luhn_accepts_published_numbers_and_catches_every_single_wrong_digit(card: str) -> None:
    assert luhn_holds(card)
    for place, digit in enumerate(card):
        for wrong in "0123456789".replace(digit, ""):
            assert not luhn_holds(card[:place] + wrong + card[place + 1 :])


def test_luhn_accepts_the_example_of_the_standard() -> None:
    assert luhn_holds("79927398713")
    assert [digit for digit in "0123456789" if luhn_holds("7992739871" + digit)] == ["3"]


@pytest.mark.parametrize("iban", IBANS)
def test_iban_accepts_registered_examples_and_catches_swapped_digits(iban: str) -> None:
    assert iban_holds(iban)
    assert iban_holds(iban.lower())
    assert not iban_holds(iban[:-1])
    for place in range(4, len(iban) - 1):
        if iban[place : place + 2].isdigit() and iban[place] != iban[place + 1]:
            swapped = iban[:place] + iban[place + 1] + iban[place] + iban[place + 2 :]
            assert not iban_holds(swapped)


def test_iban_lengths_cover_every_country_that_presidio_knows() -> None:
    assert set(regex_per_country) <= set(IBAN_LENGTHS)
    assert all(15 <= length <= 33 for length in IBAN_LENGTHS.values())
