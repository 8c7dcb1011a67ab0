"""Released adapters by digest, each a folder that `peft` loads."""

from pathlib import Path

from model.config import AdapterConfig, TensorSpec
from model.tensors import Packed, packed_digest, read_adapter_folder, write_adapter_folder
from privacy.errors import VerificationError
from privacy.plan import RunPlan


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
