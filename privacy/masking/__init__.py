"""Masking of personal data in text, before anything else sees it."""
