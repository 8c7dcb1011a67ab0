"""Weighted mean of the sites' updates, one at a time (McMahan et al. 2017, arXiv 1602.05629).

Only one update and one running sum are in memory. The sum is float64, so the order in which sites
answer changes nothing that float32 could show.
"""

import numpy as np


class StreamingMean:
    """Adds updates as they come and gives their weighted mean.

    Attributes:
      num_updates: Updates added so far.
    """

    def __init__(self, size: int) -> None:
        """Begin a sum over updates of `size` values."""
        if size < 1:
            raise ValueError(f"expected size >= 1, got {size}")
        self._sum = np.zeros(size, dtype=np.float64)
        self._weight = 0.0
        self.num_updates = 0

    def add(self, update: np.ndarray, weight: float) -> None:
        """Add a checked update, float32 (size,).

        Raises:
          ValueError: Wrong shape, a value that is not finite, or a weight that is not positive;
            the sum is as before.
        """
        if update.shape != self._sum.shape:
            raise ValueError(f"expected an update of shape {self._sum.shape}, got {update.shape}")
        if not np.isfinite(update).all():
            raise ValueError("expected an update of finite values")
        if not (np.isfinite(weight) and weight > 0):
            raise ValueError(f"expected a weight > 0, got {weight}")
        self._sum += weight * update.astype(np.float64)
        self._weight += weight
        self.num_updates += 1

    def mean(self) -> np.ndarray:
        """The weighted mean, float32 (size,).

        Raises:
          ValueError: Nothing was added.
        """
        if self.num_updates == 0:
            raise ValueError("expected at least one update")
        return (self._sum / self._weight).astype(np.float32)
