"""Rules for Chinese text. Importing them is cheap: word lists are read when a text needs them."""

from privacy.masking.chinese.rules import RULES

__all__ = ["RULES"]
