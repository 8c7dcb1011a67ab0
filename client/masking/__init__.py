"""Masking of whole files for the site's own people: `cloister-site mask`. Nothing leaves by it."""
