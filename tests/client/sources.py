"""Sources of records for tests: the settings, the records, and the one error."""

from pathlib import Path

import pytest

from client.config import SiteConfig, parse_config
from client.connectors.compose import compose, open_connector
from client.connectors.record import Record
from privacy.errors import ConfigError

CANARY = "canary-4111"
_SITE = """
[site]
name = "s"
coordinator = "localhost:1"
[data]
num_units = 100
{data}
[budget]
epsilon = 8
delta = 1e-5
"""


def config_of(data: str, folder: Path = Path("/")) -> SiteConfig:
    """A site whose `[data]` holds these lines; relative paths are taken from `folder`."""
    return parse_config(_SITE.format(data=data), folder=folder)


def raw(data: str, folder: Path) -> list[Record]:
    """The records as the source has them."""
    return list(open_connector(config_of(data, folder).data, every_column=True).records())


def read(data: str, folder: Path) -> list[Record]:
    """The records with their texts."""
    section = config_of(data, folder).data
    return list(compose(section, open_connector(section).records()))


def check(data: str, folder: Path) -> str:
    """What the connector sees."""
    return open_connector(config_of(data, folder).data).check()


def refused(data: str, folder: Path) -> ConfigError:
    """The one error of a source that cannot be used; no text of a record is in it."""
    with pytest.raises(ConfigError) as caught:
        read(data, folder)
    assert CANARY not in str(caught.value) + caught.value.hint
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value
