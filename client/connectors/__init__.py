"""Readers of record sources; imported by `client.dataset` only."""
