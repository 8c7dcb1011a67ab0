"""The closed room: how its program is started, and how the ClientApp answers in it.

The program gets what it is asked and nothing else: no private key, no network, and a folder of
keys that it cannot see.
"""

import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp

from client.framing import frame, unframe
from client.home import SiteHome
from client.link import read_message, write_message
from client.worker import Feed, Handler, Progress, Worker


def make_worker(
    home: SiteHome, program: str = "client.child", *, reads_records: bool = True
) -> Worker:
    """The child process of a site: `client.child`, without keys and network.

    Args:
      home: The site's folder.
      program: The module that runs in it.
      reads_records: False stands nobody beside it who reads a database for it.
    """
    config = home.config()
    threads = str(config.compute.threads)
    package_root = str(Path(__file__).resolve().parent.parent)
    return Worker(
        [sys.executable, "-m", program],
        environment={
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "PYTHONPATH": package_root,
        },
        hide=[home.keys_folder],
        memory_limit_mb=config.compute.memory_limit_mb,
        demand=("keys_hidden", "network_forbidden") if config.compute.require_sandbox else (),
        writable=[],
        feed=_make_feed(home, package_root) if reads_records else None,
    )


def _make_feed(home: SiteHome, package_root: str) -> Feed | None:
    """Who reads a database for the training process, which may open no connection."""
    data = home.config().data
    if not data.needs_network:
        return None
    environment = {"PYTHONPATH": package_root}
    name = getattr(data, "password_env", "")
    if name:
        environment[name] = os.environ.get(name, "")
    program = (sys.executable, "-m", "client.connectors.feed", str(home.config_path.resolve()))
    return Feed(argv=program, environment=environment)


def answer(app: ClientApp, listened: Callable[..., AbstractContextManager[None]]) -> Handler:
    """In the child: a function that answers the agent's requests with a ClientApp.

    Args:
      app: The installed ClientApp.
      listened: `client.progress.listened`.
    """

    def handle(request: bytes, report: Callable[[Progress], None]) -> bytes:
        header, sent = unframe(request)
        message = read_message(sent)
        context = Context(
            run_id=message.metadata.run_id,
            node_id=message.metadata.dst_node_id,
            node_config=header,
            state=RecordDict(),
            run_config={},
        )
        with listened(report):
            reply = app(message, context)
        local = json.loads(str(context.state.config_records["local"]["json"]))
        return frame(local, write_message(reply))

    return handle
