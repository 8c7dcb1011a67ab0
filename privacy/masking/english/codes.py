"""Codes that mix letters and digits so that no stretch of digits gives them away."""

from privacy.masking.patterns import Rules, numbered, pattern

RULES: Rules = {
    # Medicare Beneficiary Identifier: the form that CMS published, with or without hyphens.
    "HEALTH_PLAN_NUMBER": (
        (
            0.8,
            numbered(
                r"(?<![A-Z0-9])[1-9][A-Z][A-Z0-9][0-9]-?[A-Z][A-Z0-9][0-9]-?[A-Z]{2}[0-9]{2}"
                r"(?![A-Z0-9])"
            ),
        ),
    ),
    # German passports and others: nine characters, letters among the digits (ICAO 9303).
    "PASSPORT": (
        (
            0.8,
            pattern(
                r"(?<![A-Z])passport(?:[ ]{1,2}(?:number|no\.?|nr\.?|is))?[ :#]{1,3}"
                r"(?P<value>(?=[A-Z0-9]{0,8}[0-9])[A-Z0-9]{9})(?![A-Z0-9])",
                words=("passport",),
            ),
        ),
    ),
}
