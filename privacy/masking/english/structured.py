"""Numbers, dates and codes as English text writes them: patterns, and cues before a number."""

from privacy.masking.patterns import AFTER, BEFORE, Rules, is_date, pattern, trunk_phone

_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|(?-i:May|MAY)|June?|July?|"
    r"Aug(?:ust)?|Sep(?:t(?:ember)?)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
# Money, shares and measurements are no identifiers.
_NO_AMOUNT = r"(?![A-Z0-9]|\.[0-9]| ?%)"
_EXTENSION = r"(?:[ ,;]{0,2}(?:ext\.?|extension|x)[ .:]{0,2}[0-9]{1,6})?"
# What people write before an identifier that has no form of its own.
_CUE = (
    r"(?<![A-Z])(?:MRN|EMR|NHS|medical record|health record|record|chart|patient|hospital|file|"
    r"encounter|visit|accession|specimen|episode|member(?:ship)?|subscriber|beneficiary|insurance|medicare|medicaid|HBN|plan|policy|group|"
    r"customer|client|account|acct|a/c|loan|case|claim|complaint|application|reference|ref|"
    r"confirmation|transaction|order|invoice|ticket|tracking|routing|sort code|licen[cs]e|"
    r"passport|tax|national insurance|driver'?s? licen[cs]e|employee|badge|id)"
    r"(?:[ _\-]{0,2}(?:record|numbers?|num|nbr|nr|no|id|identifier|code|#)\.?){0,4}"
    r"[ \t]{0,2}(?:(?:is|was|:|#|=|-|\()[ \t]{0,2}){0,3}"
)
_VALUE = (
    r"(?P<value>(?=[A-Z0-9/\-]{4})(?=[A-Z0-9/\-]*[0-9]{3})"
    r"[A-Z0-9]++(?:[/\-][A-Z0-9]++)*+)" + _NO_AMOUNT
)

RULES: Rules = {
    "DATE": (
        (
            0.8,
            pattern(
                rf"{BEFORE}[0-9]{{4}}(?P<s> ?[/.\-] ?)[0-9]{{1,2}}(?P=s)[0-9]{{1,2}}{AFTER}",
                check=is_date,
            ),
        ),
        (
            0.8,
            pattern(
                rf"{BEFORE}[0-9]{{1,2}}(?P<s> ?[/\-] ?)[0-9]{{1,2}}(?P=s)"
                rf"(?:[0-9]{{4}}|[0-9]{{2}}){AFTER}",
                check=is_date,
            ),
        ),
        (
            0.8,
            pattern(
                rf"{BEFORE}(?:[0-9]{{1,2}}\.[0-9]{{1,2}}\.[0-9]{{4}}|"
                rf"[0-9]{{2}}\.[0-9]{{2}}\.[0-9]{{2}}){AFTER}",
                check=is_date,
            ),
        ),
        (0.6, pattern(rf"{BEFORE}(?:19|20)[0-9]{{6}}{AFTER}", check=is_date)),
        (
            0.5,
            pattern(
                r"(?<![A-Z])(?:on|dated) "
                r"(?P<value>(?:0?[1-9]|1[0-2])/(?:0?[1-9]|[12][0-9]|3[01]))(?![0-9/])"
            ),
        ),
        (
            0.8,
            pattern(
                rf"(?<![A-Z]){_MONTH}[ ,\-]{{0,2}}(?:[0-9]{{1,2}}(?:st|nd|rd|th)?"
                rf"(?:[ ,\-]{{1,2}}(?:[0-9]{{4}}|'[0-9]{{2}}){AFTER}|{AFTER})|"
                rf"(?:of )?[0-9]{{4}}{AFTER})"
            ),
        ),
        (
            0.8,
            pattern(
                rf"{BEFORE}[0-9]{{1,2}}(?:st|nd|rd|th)?[ \-]?(?:(?:day )?of )?{_MONTH}(?![A-Z])"
                rf"(?:[ ,\-]{{1,2}}'?(?:[0-9]{{4}}|[0-9]{{2}}){AFTER})?"
            ),
        ),
    ),
    "PHONE": (
        (
            0.75,
            pattern(
                rf"{BEFORE}(?:\+[ (]?|00)[1-9](?:[ .\-/()]{{0,2}}[0-9]){{6,14}}"
                rf"{AFTER}{_EXTENSION}"
            ),
        ),
        (
            0.75,
            pattern(
                rf"{BEFORE}(?:1[ .\-]?)?(?:\([0-9]{{3}}\)[ .\-/]{{0,2}}|[0-9]{{3}}[ .\-/]{{1,2}})"
                rf"[0-9]{{3}}[ .\-][0-9]{{4}}{AFTER}{_EXTENSION}"
            ),
        ),
        (0.6, trunk_phone),
        (0.4, pattern(rf"{BEFORE}1?[2-9][0-9]{{2}}[2-9][0-9]{{6}}{AFTER}")),
        (
            0.4,
            pattern(rf"(?<![0-9])(?<![0-9]-)[0-9]{{3}}-[0-9]{{4}}(?![0-9]|-[0-9]){_EXTENSION}"),
        ),
        (
            0.5,
            pattern(
                r"(?<![A-Z])(?:phone|telephone|tel|mobile|cell|fax|pager|call|text|dial)"
                rf"[^0-9\n$]{{0,15}}(?P<value>[0-9](?:[ \-]?[0-9]){{6,14}}){AFTER}"
            ),
        ),
    ),
    "RECORD_NUMBER": (
        (0.7, pattern(_CUE + _VALUE)),
        (0.5, pattern(r"# ?" + _VALUE, needs="#")),
        (0.5, pattern(rf"(?<![A-Z0-9])[A-Z]{{1,4}}[\-#]?[0-9]{{6,12}}{AFTER}")),
        (
            0.5,
            pattern(
                r"(?<![A-Z])(?:end(?:ing|s) (?:in|with|on)|last (?:4|four)(?: digits?)?)"
                rf"[^0-9\n$]{{1,12}}(?P<value>[0-9]{{3,4}}){_NO_AMOUNT}"
            ),
        ),
        # No sentence needs eight digits in a row; account and card numbers do.
        (0.3, pattern(rf"{BEFORE}[0-9]{{8,}}")),
    ),
    "SSN": (
        (0.85, pattern(rf"{BEFORE}[0-9]{{3}}(?P<s>[ .\-])[0-9]{{2}}(?P=s)[0-9]{{4}}{AFTER}")),
        (
            0.85,
            pattern(
                r"(?<![A-Z])(?:SSN|SIN|ITIN|social security)"
                rf"[^0-9\n]{{0,20}}(?P<value>[0-9]{{9}}){AFTER}"
            ),
        ),
    ),
}
