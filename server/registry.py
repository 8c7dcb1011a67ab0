"""Released adapters by digest, each a folder that `peft` loads.

Beside them, where the plan has a server optimizer with a memory, stands what that optimizer
remembers after the newest adapter: `optimizer/<plan's digest>/<adapter's digest>.npz`.
"""

import io
import zipfile
from pathlib import Path

import numpy as np

from model.config import AdapterConfig, TensorSpec
from model.fedopt import Moments
from model.tensors import Packed, packed_digest, read_adapter_folder, write_adapter_folder
from privacy.durable import replace_file, sync_folder
from privacy.errors import VerificationError
from privacy.plan import RunPlan

_OPTIMIZER = "optimizer"


class Registry:
    """The folder of released adapters: `<folder>/<64 hex digits>/adapter_model.safetensors`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """The folder of the adapter with this digest, whether or not it is there."""
        return self._folder / digest.removeprefix("sha256:")

    def release(
        self,
        specs: tuple[TensorSpec, ...],
        packed: Packed,
        config: AdapterConfig,
        base_name: str,
    ) -> str:
        """Write an adapter and return its digest. A crash leaves the whole folder or none."""
        digest = packed_digest(specs, packed)
        write_adapter_folder(self.path(digest), specs, packed, config, base_name)
        return digest

    def load(self, digest: str, plan: RunPlan) -> Packed:
        """The adapter with this digest, every tensor of the plan.

        Raises:
          VerificationError: It is missing, or its bytes are not those of its digest.
        """
        try:
            packed = read_adapter_folder(self.path(digest), plan.tensors)
        except (OSError, ValueError) as error:
            raise VerificationError(
                f"expected adapter {digest} in {self._folder}, got {type(error).__name__}",
                hint="restore the folder of released adapters from a copy",
            ) from error
        if packed_digest(plan.tensors, packed) != digest:
            raise VerificationError(
                f"adapter {digest} does not match its digest",
                hint="restore the folder of released adapters from a copy",
            )
        return packed

    def keep_moments(self, plan: str, adapter: str, moments: Moments) -> None:
        """Write what a plan's server optimizer remembers after an adapter, before it is released.

        Durable when this returns.
        """
        path = self._moments_path(plan, adapter)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.savez(
            content,
            adapter=np.array(adapter),
            first=moments.first,
            second=moments.second,
            num_steps=np.array(moments.num_steps),
        )
        replace_file(path, content.getvalue())
        # Without this a power cut could leave the adapter in the log and no moments.
        for folder in (path.parent, path.parent.parent, self._folder):
            sync_folder(folder)

    def forget_moments(self, plan: str, *, but: str) -> None:
        """Remove a plan's moments of every adapter but the newest: a run never steps back."""
        newest = self._moments_path(plan, but)
        for path in newest.parent.glob("*"):
            if path != newest:
                path.unlink()

    def load_moments(self, plan: str, adapter: str, size: int) -> Moments:
        """What a plan's server optimizer remembers after an adapter.

        Raises:
          VerificationError: It is missing, unreadable or another adapter's: a run must not go on
            with another step than the one it would have taken.
        """
        path = self._moments_path(plan, adapter)
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
                moments = Moments(found["first"], found["second"], int(found["num_steps"]))
                is_its = str(found["adapter"]) == adapter
            if not is_its or moments.first.shape != (size,) or moments.first.dtype != np.float64:
                raise ValueError("another adapter's")  # noqa: TRY301
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise VerificationError(
                f"expected the server optimizer's moments in {path}, got {type(error).__name__}",
                hint="restore the folder of released adapters from a copy, or run the plan anew",
            ) from error
        return moments

    def _moments_path(self, plan: str, adapter: str) -> Path:
        folder = self._folder / _OPTIMIZER / plan.removeprefix("sha256:")
        return folder / f"{adapter.removeprefix('sha256:')}.npz"
