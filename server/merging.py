"""What a federation's users get: the base with a run's last adapter in its weights, as one folder.

Only of a run that is finished, so that its quorum has cosigned the history of what is handed out.
"""

from pathlib import Path

from privacy.errors import ConfigError
from server.config import FederationConfig
from server.registry import Registry
from server.runs import Run, RunState, RunStore


def export(
    config: FederationConfig, folder: Path, *, run: str = "", base: Path | None = None
) -> Run:
    """Write a base with a run's last adapter merged into it, whole or not at all.

    Args:
      config: The coordinator's settings.
      folder: A new folder; its parent exists.
      run: Name of the run; empty: the only one that is finished.
      base: Folder of the base; None: the embedded one.

    Raises:
      ConfigError: No such run is finished, it released nothing, `folder` exists, or `base` is not
        the run's.
      VerificationError: The adapter is missing, or not the one of its digest.
    """
    store = RunStore(config.state_folder / "runs.sqlite")
    try:
        found = _finished(store.list(), run)
    finally:
        store.close()
    if folder.exists() or not folder.absolute().parent.is_dir():
        raise ConfigError(f"expected a new folder in one that exists, got {folder}")
    plan = found.plan
    packed = Registry(config.adapters_folder).load(found.adapter, plan)
    # It loads for seconds, and no other command of the coordinator needs it.
    from safetensors import SafetensorError

    from model.adapter import AdapterState
    from model.base import UnusableBaseError, nano_folder
    from model.export import export_merged

    state = AdapterState.unpack(plan.tensors, packed)
    try:
        export_merged(folder, base or nano_folder(), plan.base, state, plan.adapter)
    except UnusableBaseError as error:
        raise ConfigError(
            f"expected the base of run {plan.run}, {plan.base.name}: {error}",
            hint="name its folder with --base, as the plan had it" if base is None else error.hint,
        ) from None
    except (OSError, SafetensorError) as error:
        said = error.strerror if isinstance(error, OSError) else "the disk takes no more"
        raise ConfigError(f"cannot write {folder}: {said}") from None
    return found


def _finished(runs: tuple[Run, ...], name: str) -> Run:
    named = [run for run in runs if not name or run.plan.run == name]
    finished = [run for run in named if run.state is RunState.FINISHED]
    if not finished:
        raise ConfigError(
            f"expected a finished run {name}".rstrip() + f", got {len(named)} that are not",
            hint="cloister-coordinator status shows the runs",
        )
    # They are in the order in which they were offered: which one ended last, a name says better.
    if len(finished) > 1:
        names = ", ".join(run.plan.run for run in finished)
        raise ConfigError(f"expected one finished run, got {names}", hint="name one with --run")
    if finished[0].adapter == finished[0].plan.initial_adapter:
        raise ConfigError(
            f"expected a run that released an adapter, {finished[0].plan.run} did not"
        )
    return finished[0]
