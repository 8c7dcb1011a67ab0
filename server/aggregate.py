"""Weighted mean of the sites' updates, one at a time (McMahan et al. 2017, arXiv 1602.05629).

Only one update and one running sum are in memory. The sum is float64, so the order in which sites
answer changes nothing that float32 could show.

Where sites have different ranks, each value is averaged over the sites that train it: column j of
B is the mean over those, and the product the sum over j of such columns times row j of A. A site
counts where it has a say, and as no zero elsewhere.
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
        # One number as long as every site trains every value.
        self._weight: float | np.ndarray = 0.0
        self.num_updates = 0

    def add(self, update: np.ndarray, weight: float, mask: np.ndarray | None = None) -> None:
        """Add a checked update, float32 (size,).

        Args:
          update: New minus old values.
          weight: What the site counts.
          mask: Which values the site trains, bool (size,); None: all.

        Raises:
          ValueError: Wrong shape, a value that is not finite, one that is not zero beyond the
            mask, or a weight that is not positive; the sum is as before.
        """
        if update.shape != self._sum.shape:
            raise ValueError(f"expected an update of shape {self._sum.shape}, got {update.shape}")
        if not np.isfinite(update).all():
            raise ValueError("expected an update of finite values")
        if not (np.isfinite(weight) and weight > 0):
            raise ValueError(f"expected a weight > 0, got {weight}")
        if mask is not None and (mask.shape != update.shape or update[~mask].any()):
            raise ValueError("expected an update that is zero where the site does not train")
        self._sum += weight * update.astype(np.float64)
        self._weight = self._weight + (weight if mask is None else weight * mask)
        self.num_updates += 1

    def mean(self) -> np.ndarray:
        """The weighted mean, float32 (size,); zero where no site trained.

        Raises:
          ValueError: Nothing was added.
        """
        if self.num_updates == 0:
            raise ValueError("expected at least one update")
        weights = np.broadcast_to(self._weight, self._sum.shape)
        mean = np.divide(self._sum, weights, out=np.zeros_like(self._sum), where=weights > 0)
        result: np.ndarray = mean.astype(np.float32)
        return result
