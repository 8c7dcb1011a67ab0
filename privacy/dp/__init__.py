"""Differential privacy: mechanism, calibration, budget, and the checks that a claim holds."""
