# ruff: noqa: E501 - forms read as they are sent.
"""Made-up clinical notes and bank letters in English, with every identifier's place.

Values come from Faker and from a generator of names that stand in no list: what is found of those
shows what masking does with names that nobody has written down. Offsets are counted while writing.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from faker import Faker

Spans = tuple[tuple[int, int, str], ...]
_STARTS = (
    "Bra Cor Dre Fal Gri Hal Jor Kel Lum Mar Nor Osk Pra Quil Ros Sel Tarv Ulm Vand Wex Yol Zan"
)
_MIDDLES = "a ane e elo i ina o ori u una ya ether"
_ENDS = "by dane der felt gren lin lock mont nik quist ren rick sen son stad tov vall wen wick yr"
_CLINICAL = (
    "PATIENT: {name}\nMRN: {mrn}\nDOB: {date}\nPhone: {phone}\n\nHISTORY OF PRESENT ILLNESS: {name} is "
    "a {old}-year-old who was admitted to {hospital} on {date} with chest pain and shortness of breath. "
    "{pronoun} wife {first} called {phone}. EKG showed no ST changes.\n\nASSESSMENT: Unstable angina. "
    "Foley catheter placed. Started on heparin and Lipitor 40 mg.\n\nDictated by: Dr. {name}\n",
    "Dear Dr. {last},\n\nThank you for referring {name}, who lives at {street}, {city}. The patient was "
    "seen on {date}. Social security number {ssn}, health plan member ID: {plan}. On examination the "
    "abdomen was soft. Murphy's sign was negative. Please call our office at {phone} or fax {phone}.\n\n"
    "Sincerely,\n{name}, MD\nLicense number {licence}\n",
    "OPERATIVE REPORT\nDate of operation: {date}\nSurgeon: {name}\nAssistant: {name}\n\nThe patient was "
    "taken to the operating room and placed in the supine position. The device, serial number {device}, "
    "was implanted without complication. Estimated blood loss 50 mL. Record {mrn}.\n",
    "Pt {first} {last} (account number {account}), seen {date}, brother {first} present. Lives in {city}. "
    "Email {email}. Portal {url} from {ip}. Drives a car with license plate {plate}, VIN {vin}.\n",
)
_BANK = (
    "Dear Mr. {last},\n\nwe received your transfer of $1,250.00 from account number {account} on {date}. "
    "Your card {card} (cvv {cvv}) was charged twice. IBAN {iban}, SWIFT: {swift}. Please call {phone}.\n\n"
    "Kind regards,\n{name}\nCustomer Service\n",
    "Customer {name} (customer id {customer}) of {street}, {city} {zip} complained about a late fee. "
    "Sort code {sort}, routing number {routing}. Passport number {passport}. The loan was approved in 2019 "
    "at 4.5 %.\n",
    "hi, my name is {name_small} and i live in {city_small}. my password is {password}, pin {pin}. i sent "
    "500 dollars to {name_small} on {date}. reply to {email}\n",
    "The dispute was opened by {name} against Equifax on {date}. {first} {last} logged in from {ip}; see "
    "{url}. Mailing address: {street}, {city} {zip}. Tax ID {ssn}.\n",
)


def notes(count: int, seed: int, *, unseen: bool = False) -> Iterator[tuple[str, Spans]]:
    """`count` notes, clinical and bank by turns; with `unseen`, names and cities that no list has."""
    fake = Faker("en_US")
    fake.seed_instance(seed)
    makers = _makers(fake, unseen=unseen)
    forms = [form for pair in zip(_CLINICAL, _BANK, strict=True) for form in pair]
    for index in range(count):
        yield _filled(forms[index % len(forms)], makers)


def forms() -> Sequence[str]:
    """The templates; `notes` takes them by turns."""
    return [form for pair in zip(_CLINICAL, _BANK, strict=True) for form in pair]


def _filled(form: str, makers: dict[str, tuple[str, Callable[[], str]]]) -> tuple[str, Spans]:
    text = ""
    spans = []
    for piece in form.split("{"):
        name, brace, rest = piece.partition("}")
        if not brace:
            text += piece
            continue
        kind, make = makers[name]
        value = make()
        if kind:
            spans.append((len(text), len(text) + len(value), kind))
        text += value + rest
    return text, tuple(spans)


def _makers(fake: Faker, *, unseen: bool) -> dict[str, tuple[str, Callable[[], str]]]:
    pick = fake.random_element
    number = fake.numerify

    def invented() -> str:
        word = pick(_STARTS.split()) + pick(_MIDDLES.split()) + pick(_ENDS.split())
        return word.capitalize()

    first = invented if unseen else fake.first_name
    last = invented if unseen else fake.last_name
    city = invented if unseen else fake.city

    def name() -> str:
        return f"{first()} {last()}"

    def date() -> str:
        form = pick(("%m/%d/%Y", "%B %d, %Y", "%Y-%m-%d", "%d %b %Y", "%m/%d/%y"))
        return fake.date_time_between("-90y", "-1d").strftime(form)

    def street() -> str:
        return f"{fake.building_number()} {last()} {fake.street_suffix()}"

    return {
        "name": ("PERSON", name),
        "first": ("PERSON", first),
        "last": ("PERSON", last),
        "name_small": ("PERSON", lambda: name().lower()),
        "city": ("LOCATION", city),
        "city_small": ("LOCATION", lambda: city().lower()),
        "street": ("LOCATION", street),
        "zip": ("LOCATION", fake.postcode),
        "hospital": (
            "LOCATION",
            lambda: f"{last()} {pick(('Hospital', 'Medical Center', 'Clinic'))}",
        ),
        "date": ("DATE", date),
        "old": ("AGE", lambda: str(fake.random_int(90, 104))),
        "pronoun": ("", lambda: pick(("His", "Her"))),
        "phone": (
            "PHONE",
            lambda: number(
                pick(("(2##) 5##-####", "3##-4##-####", "+1 4## 5## ####", "5##.6##.####"))
            ),
        ),
        "mrn": ("RECORD_NUMBER", lambda: number(pick(("########", "######", "##-##-##-#")))),
        "ssn": ("SSN", lambda: number("###-##-####")),
        "plan": ("HEALTH_PLAN_NUMBER", lambda: fake.bothify("???-#######").upper()),
        "licence": ("LICENCE_NUMBER", lambda: fake.bothify("?######").upper()),
        "device": ("DEVICE_ID", lambda: fake.bothify("??-####-###").upper()),
        "account": ("ACCOUNT_NUMBER", partial(number, "##########")),
        "email": ("EMAIL", fake.ascii_safe_email),
        "url": ("URL", fake.url),
        "ip": ("IP_ADDRESS", lambda: pick((fake.ipv4(), fake.ipv6()))),
        "plate": ("VEHICLE", lambda: fake.bothify(pick(("???-####", "#???###"))).upper()),
        "vin": ("VEHICLE", fake.vin),
        "card": ("CREDIT_CARD", fake.credit_card_number),
        "cvv": ("CVV", fake.credit_card_security_code),
        "iban": ("IBAN", fake.iban),
        "swift": ("SWIFT", fake.swift),
        "customer": ("CUSTOMER_ID", lambda: number("C-######")),
        "sort": ("SORT_CODE", lambda: number("##-##-##")),
        "routing": ("ROUTING_NUMBER", fake.aba),
        "passport": ("PASSPORT", fake.passport_number),
        "password": ("PASSWORD", lambda: fake.password(length=10)),
        "pin": ("PASSWORD", lambda: number("####")),
    }
