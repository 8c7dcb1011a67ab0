"""Check digits that tell an identifier from any other number."""

# Length of an IBAN by country: SWIFT IBAN registry, release 99.
IBAN_LENGTHS = {
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE",), 16),
    **dict.fromkeys(("DK", "FI", "FK", "FO", "GL", "NL", "SD"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "LT", "LU", "MN", "XK"), 20),
    **dict.fromkeys(("CH", "HR", "LI", "LV"), 21),
    **dict.fromkeys(("BG", "BH", "CR", "DE", "GB", "GE", "IE", "ME", "RS", "VA"), 22),
    **dict.fromkeys(("AE", "GI", "IL", "IQ", "OM", "SO", "TL"), 23),
    **dict.fromkeys(("AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"), 24),
    **dict.fromkeys(("LY", "PT", "ST"), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("BI", "DJ", "FR", "GR", "IT", "MC", "MR", "SM"), 27),
    **dict.fromkeys(("AL", "AZ", "BY", "CY", "DO", "GT", "HN", "HU", "LB", "NI", "PL", "SV"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "MU", "YE"), 30),
    **dict.fromkeys(("MT", "SC"), 31),
    **dict.fromkeys(("LC",), 32),
    **dict.fromkeys(("RU",), 33),
}


def luhn_holds(digits: str) -> bool:
    """Whether the last of `digits` (ASCII) is the check digit of the others.

    Source: ISO/IEC 7812-1, annex B.
    """
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = ord(digit) - ord("0")
        if place % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0


def iban_holds(iban: str) -> bool:
    """Whether `iban` (ASCII letters and digits, no spaces) has its country's length and checksum.

    Source: ISO 13616-1, modulo 97-10 of ISO/IEC 7064.
    """
    iban = iban.upper()
    if IBAN_LENGTHS.get(iban[:2]) != len(iban):
        return False
    number = "".join(str(int(character, 36)) for character in iban[4:] + iban[:4])
    return int(number) % 97 == 1


def resident_id_holds(number: str) -> bool:
    """Whether 17 digits and a check sign are a resident id of China, with a date in it.

    Source: GB 11643-1999, which is ISO 7064 MOD 11-2.
    """
    total = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(number[:17]))
    born = number[6:14]
    dated = "1800" <= born[:4] < "2100" and "01" <= born[4:6] <= "12" and "01" <= born[6:] <= "31"
    return dated and "10X98765432"[total % 11] == number[17].upper()


_CREDIT_SIGNS = "0123456789ABCDEFGHJKLMNPQRTUWXY"


def social_credit_code_holds(code: str) -> bool:
    """Whether the last of 18 signs is the check sign of the others.

    Source: GB 32100-2015, modulo 31 with weights 3^i.
    """
    values = [_CREDIT_SIGNS.find(sign) for sign in code.upper()]
    if len(values) != 18 or min(values) < 0:
        return False
    total = sum(value * pow(3, place, 31) for place, value in enumerate(values[:17]))
    return (31 - total % 31) % 31 == values[17]


_VIN_VALUES = dict(zip("ABCDEFGHJKLMNPRSTUVWXYZ", "12345678123457923456789", strict=True))
_VIN_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)


def vin_holds(vin: str) -> bool:
    """Whether the ninth of 17 signs is the check digit of a vehicle identification number.

    Source: 49 CFR 565.15.
    """
    vin = vin.upper()
    if len(vin) != 17 or not all(sign.isdigit() or sign in _VIN_VALUES for sign in vin):
        return False
    total = sum(
        weight * int(_VIN_VALUES.get(sign, sign))
        for weight, sign in zip(_VIN_WEIGHTS, vin, strict=True)
    )
    return "0123456789X"[total % 11] == vin[8]


def routing_holds(number: str) -> bool:
    """Whether nine digits are a routing number of the American Bankers Association.

    The first two digits are those of a Federal Reserve district or its like.
    """
    digits = [int(digit) for digit in number]
    district = int(number[:2])
    known = district <= 12 or 21 <= district <= 32 or 61 <= district <= 72 or district == 80
    return known and sum(d * w for d, w in zip(digits, (3, 7, 1) * 3, strict=True)) % 10 == 0
