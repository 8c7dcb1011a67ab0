"""Import a library as if some of what it can use were not installed.

Presidio and spaCy load torch and transformers where they find them, which takes seconds, for
engines that nothing here uses. Both are made to do without.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def absent(*names: str, unless_loaded: tuple[str, ...] = ()) -> Iterator[None]:
    """Let imports of `names` fail, and of those in `unless_loaded` that are not loaded yet.

    What was loaded is there again afterwards, and what was not can be imported. It is for the
    beginning of a process: another thread's import of the same names would fail too.
    """
    modules: dict[str, Any] = sys.modules
    hidden = [*names, *(name for name in unless_loaded if name not in modules)]
    loaded = {name: modules[name] for name in hidden if name in modules}
    modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]
        modules.update(loaded)
