"""English canaries: published test numbers and reserved names, in sentences of clinic and bank.

Card numbers are the networks' test numbers, IBANs those of the SWIFT registry's examples, phone
numbers of the ranges kept for fiction, addresses of example.org and the documentation networks,
social security numbers ones that were published and withdrawn. Names are placeholders of the law
and everyday ones. Resident identity numbers and credit codes are those of the Chinese canaries.
"""

Planted = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]

# By type: values, and sentences with {} where one is planted.
CANARIES: Planted = {
    "ACCOUNT_NUMBER": (
        ("12345678", "000123456789", "4482119033", "31926819", "9900012345", "55779911",
         "0532013000", "70872490"),
        ("Please close account number {} today.", "Acct no. {} was overdrawn.",
         "The transfer to account {} failed.", "Savings a/c {} shows two fees.",
         "Charges on my checking account: {}."),
    ),
    "AGE": (
        ("91", "92", "93", "94", "96", "97", "99", "101"),
        ("This {}-year-old woman fell at home.", "The patient is {} years old.",
         "A man aged {} came with chest pain.", "Age: {} years.", "A {} y/o male with dementia."),
    ),
    "CREDIT_CARD": (
        ("4111 1111 1111 1111", "5555555555554444", "378282246310005", "6011-1111-1111-1117",
         "30569309025904", "3530111333300000", "4012 8888 8888 1881", "2223003122003222"),
        ("Card {} was charged twice.", "She paid with {} on the phone.",
         "The number on the card is {}.", "PAN: {}", "Stolen card ({}), please block it."),
    ),
    "CUSTOMER_ID": (
        ("KD-4482190", "C00123456", "CUST-889120", "7734120", "88-120-443", "U4482190",
         "10023774", "BK778120"),
        ("Customer ID {} called twice.", "Customer number: {}.", "Client no. {} asked for a loan.",
         "Our client ID is {}.", "Customer no {} was not told."),
    ),
    "CVV": (
        ("737", "123", "4821", "905", "118", "364", "5570", "209"),
        ("The CVV is {}.", "CVC: {}", "I gave them the security code {} too.",
         "Card verification code: {}.", "CVV2 {} was on the receipt."),
    ),
    "DATE": (
        ("14 March 2019", "2019-03-14", "03/14/2019", "March 14, 2019", "14.03.2019", "14 Mar 2019",
         "2019/03/14", "Sept 3rd, 2018"),
        ("Admitted on {} with fever.", "DOB: {}.", "Seen {} in the clinic.",
         "The payment of {} did not arrive.", "Follow-up is due {}."),
    ),
    "DEVICE_ID": (
        ("SN-4482190A", "PJN408112", "490154203237518", "00:00:5E:00:53:AF", "A24-77810-3",
         "LM5521908", "9F88120C", "W1TR44810"),
        ("Pacemaker serial number {}.", "Device ID: {}.", "The pump, S/N {}, was replaced.",
         "Implant serial no. {} was recorded.", "Device identifier {} sent an alarm."),
    ),
    "EMAIL": (
        ("jane.doe@example.org", "j_roe@example.com", "mary+bills@example.net",
         "R.ROE@EXAMPLE.ORG", "john.public@mail.example.co.uk", "d0e@example.org",
         "info-desk@clinic.example.com", "anna.m@bank.example.org"),
        ("Write to {} please.", "Her e-mail is {}.", "Results were sent to {} by mistake.",
         "Contact: {}", "From {} on Monday."),
    ),
    "HEALTH_PLAN_NUMBER": (
        ("1EG4-TE5-MK73", "W123456789", "XEA123456789", "912345678", "H4482-190-33",
         "MBR00448219", "943 476 5919", "5SS8WW1KT22"),
        ("Member ID {}.", "Medicare beneficiary number {} was refused.",
         "Health plan number: {}.", "Insurance policy no. {} has ended.", "Subscriber ID: {}"),
    ),
    "IBAN": (
        ("GB82 WEST 1234 5698 7654 32", "DE89 3704 0044 0532 0130 00",
         "FR14 2004 1010 0505 0001 3M02 606", "NL91ABNA0417164300", "ES9121000418450200051332",
         "CH93 0076 2011 6238 5295 7", "BE68539007547034", "NO9386011117947"),
        ("IBAN {}.", "Please pay to {} by Friday.", "The account {} is with another bank.",
         "Beneficiary: {}", "It was sent to {} instead."),
    ),
    "IP_ADDRESS": (
        ("192.0.2.44", "198.51.100.7", "203.0.113.250", "2001:db8::1", "2001:db8:85a3::8a2e:370:7334",
         "192.0.2.1", "198.51.100.123", "203.0.113.9"),
        ("The login came from {}.", "IP address: {}", "Blocked {} after five tries.",
         "Host {} answered.", "A session of {} was open."),
    ),
    "LICENCE_NUMBER": (
        ("D1234562", "MORGA753116SM9IJ", "F255-9215-0094", "AB1234563", "S530-4608-9007",
         "99999999", "K08-1150-2", "BS4482190"),
        ("Driver's license number {}.", "Driving licence no. {} was shown.",
         "His license no. is {}.", "Medical license number: {}.", "Licence number {} has expired."),
    ),
    "LOCATION": (
        ("Springfield", "Worcester", "Chicago", "Portland", "742 Evergreen Terrace",
         "221B Baker Street", "12 Elm Street", "Manchester"),
        ("She lives at home in {}.", "Address: {}.", "He moved here from {} last year.",
         "The patient was sent home to {}.", "A branch in {} made the error."),
    ),
    "PASSPORT": (
        ("C01X00T47", "L898902C3", "123456789", "XN8271602", "K0000001", "533401372",
         "P4366918", "AA0000000"),
        ("Passport number {}.", "Passport no. {} was copied.", "Passport: {}",
         "She showed passport {} at the desk.", "The holder of passport {} signed."),
    ),
    "PASSWORD": (
        ("hunter2", "Tr0ub4dor&3", "correct-horse-battery", "P@ssw0rd9", "AKIAIOSFODNN7EXAMPLE",
         "qwerty123", "Summer!2019", "s3cr3t_key"),
        ("My password is {}.", "Password: {}", "pwd={}", "The password was {} all along.",
         "API key: {}"),
    ),
    "PERSON": (
        ("Jane Doe", "Richard Roe", "Mary Jones", "John Smith", "Emily Carter", "Robert Johnson",
         "Linda Nguyen", "Michael O'Brien"),
        ("{} was seen in the clinic today.", "I spoke with Dr. {} about it.",
         "Patient name: {}.", "Her husband, {}, was present.", "The letter was signed by {}."),
    ),
    "PHONE": (
        ("(202) 555-0143", "212-555-0188", "+1 415 555 0101", "020 7946 0123", "07700 900123",
         "303.555.0177", "+44 1632 960983", "617 555 0199"),
        ("Call {} after six.", "Phone: {}", "Her daughter can be reached at {}.", "Fax {}.",
         "The number {} called me ten times."),
    ),
    "RECORD_NUMBER": (
        ("00482913", "4482190", "77120-33", "E1002938", "20190314-07", "A0078123", "660912",
         "B-448219"),
        ("MRN: {}.", "Medical record number {}.", "Chart no. {} was missing.",
         "Accession number {} is final.", "Case number {} was closed."),
    ),
    "RESIDENT_ID": (
        ("11010519491231002X", "440524188001010014", "34052419800101001X", "53010219200508011X",
         "110105188001010017"),
        ("Resident identity number {}.", "Chinese ID: {}", "Her resident ID card {} was copied.",
         "Her Chinese identity number is {}.", "He showed the identity card {} at the desk.",
         "National ID no. {} was misread.", "Identity card: {}.", "The account of {} was opened here."),
    ),
    "ROUTING_NUMBER": (
        ("021000021", "011401533", "091000019", "026009593", "121000248", "322271627",
         "061000104", "111000025"),
        ("Routing number {}.", "ABA {} was wrong.", "The routing no. is {}.",
         "ABA routing number: {}.", "Use routing number {} for wires."),
    ),
    "SOCIAL_CREDIT_CODE": (
        ("91350100M000100Y43", "91110105MA00000X10", "91310115MA1K000003", "91440300MA5D000002",
         "91330106MA2A000009"),
        ("Unified social credit code {}.", "Credit code: {}", "The firm is registered as {}.",
         "Social credit code {} was misread.", "The code of the company is {}.",
         "USCC: {}.", "The supplier ({}) was not paid.", "The licence of firm {} has ended."),
    ),
    "SORT_CODE": (
        ("40-47-84", "20-00-00", "08-99-99", "10-79-99", "18-00-02", "93-86-11", "82-68-72",
         "07-01-16"),
        ("Sort code {}.", "The sort code is {}.", "Sort code: {}", "S/C {} was rejected.",
         "Bank sort code {} was misread."),
    ),
    "SSN": (
        ("078-05-1120", "219-09-9999", "457-55-5462", "987-65-4320", "123-45-6789", "721-07-4426",
         "042-10-3580", "165-16-7999"),
        ("SSN {}.", "Her social security number is {}.", "They have my social, {}.",
         "Social security no: {}", "The number {} stands on the form."),
    ),
    "SWIFT": (
        ("DEUTDEFF", "DEUTDEFF500", "NEDSZAJJXXX", "BOFAUS3N", "CHASUS33", "HSBCHKHH",
         "BARCGB22", "UBSWCHZH80A"),
        ("SWIFT code {}.", "BIC: {}.", "The BIC/SWIFT is {}.", "SWIFT: {}",
         "Send it by SWIFT to BIC {}."),
    ),
    "URL": (
        ("https://www.example.org/a?b=c", "http://example.com/patients/44",
         "www.example.net/login", "https://portal.example.org:8443/x", "ftp://files.example.com/r",
         "https://example.org", "http://192.0.2.44/chart", "www.example.com"),
        ("See {} for results.", "Her page is {}.", "The link {} did not open.",
         "Website: {}", "I was sent to {} by a message."),
    ),
    "VEHICLE": (
        ("1HGCM82633A004352", "JH4KA8260MC000000", "7ABC123", "WVWZZZ1JZXW000001", "JM1BL1S58A1134659",
         "4XYZ982", "5YJSA1DG9DFP14705", "WBA3A5C51CF256651"),
        ("VIN {}.", "License plate {} was noted.", "Vehicle registration: {}.",
         "Vehicle no. {} was towed.", "Vehicle identification number {}."),
    ),
}  # fmt: skip
