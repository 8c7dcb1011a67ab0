"""What personal data looks like in English text."""

from privacy.masking.english import structured
from privacy.masking.patterns import Rules

RULES: Rules = {**structured.RULES}
