"""Progress of work in the training process: numbers and short names, never text of a record.

The work reports; whoever runs it may listen. Without a listener nothing happens, so the same code
runs in an agent's child, in a simulation and in a test.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[Mapping[str, object]], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def report(stage: str, **numbers: float) -> None:
    """Tell the listener, if any, where the work stands."""
    listener = _listener.get()
    if listener is not None:
        listener({"stage": stage, **numbers})


@contextmanager
def listened(listener: Listener) -> Iterator[None]:
    """Hand every report within this block to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
