"""The consortium of `tests/privacy`, for tests that talk to a coordinator."""

from tests.privacy.conftest import consortium, new_consortium

__all__ = ["consortium", "new_consortium"]
