"""Differential privacy: the mechanism, its calibration, the budget, and the checks that the claim holds."""
