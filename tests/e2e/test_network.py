"""Who listens, who connects, and that nobody reaches for anything else."""

import pytest

from tests.e2e.conftest import Story
from tests.e2e.consortium import SITES

# 127.0.0.1 as the kernel writes it, for itself and as an IPv6 address.
LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F")


def test_no_process_of_a_site_listens(story: Story) -> None:
    for name in (*SITES, "clinic ClientApp"):
        assert [s for s in story.sockets[name] if s.listening or s.protocol == "udp"] == []


def test_an_agent_has_one_connection_and_it_leads_to_the_coordinator(story: Story) -> None:
    for name in SITES:
        (connection,) = story.sockets[name]
        settings = (story.consortium.site(name) / "site.toml").read_text()
        assert f'coordinator = "127.0.0.1:{connection.remote_port}"' in settings


def test_the_client_app_has_no_socket_and_no_network(story: Story) -> None:
    assert story.sockets["clinic ClientApp"] == []
    # Where namespaces are refused, its system calls for the network are.
    if story.networks["clinic ClientApp"] == story.networks["clinic"]:
        pytest.skip("this machine gives the training process no network of its own")


def test_the_coordinator_listens_on_its_one_port_only(story: Story) -> None:
    found = story.sockets["coordinator"]
    (listening,) = [s for s in found if s.listening]
    assert (listening.protocol, listening.local_port) == ("tcp", story.consortium.port)
    assert listening.local in LOOPBACK
    # Every other socket is a site's, on that port; none leads out.
    assert {s.local_port for s in found} == {story.consortium.port}


def test_nothing_reaches_for_an_address_beyond_loopback(story: Story) -> None:
    if story.packets is None:
        pytest.skip("this machine lets nobody make a network without an outside")
    assert story.packets == []
