"""Measured comparisons with other systems, runnable by anyone: `python -m bench --help`."""
