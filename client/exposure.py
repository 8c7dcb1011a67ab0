"""The program that ranks the secrets of tracers, in a room without keys, network and records.

`python -m client.exposure`, started by `client.exposed` as the agent starts `client.child`. It
loads the base, puts the released adapter in, and makes the site's tracers anew from their key. No
module that reads records is imported here (import-linter holds that), and no reader of a database
stands beside it: what it answers depends on the adapter, the base and made-up secrets alone.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from client.adapted import load_adapted
from client.config import load_config
from client.framing import unframe
from client.home import file_digest
from client.progress import listened, report
from client.traced import rank_secrets, tokenized
from client.tracers import make_tracers
from client.worker import Handler, Progress, serve
from model.adapter import AdapterState, load_adapter
from privacy.errors import ConfigError
from privacy.plan import RunPlan


def _answer(request: bytes, tell: Callable[[Progress], None]) -> bytes:
    settings, adapter = unframe(request)
    packed = np.frombuffer(adapter, dtype="<f4").astype(np.float32)
    path, plan = Path(settings["site_config"]), RunPlan.parse(settings["plan"].encode())
    if file_digest(path) != settings["site_config_digest"]:
        raise ConfigError(f"expected {path} as it was when the test began")
    config = load_config(path)
    torch.set_num_threads(config.compute.threads)
    tracers = make_tracers(bytes.fromhex(settings["exposure_key"]), plan, config.site.name)
    with listened(tell):
        report("loading")
        adapted, tokenizer = load_adapted(plan, config.base.folder, config.compute)
        load_adapter(adapted, AdapterState.unpack(plan.tensors, packed))
        ranks = rank_secrets(adapted, tokenized(tracers, tokenizer, plan))
    return json.dumps({"ranks": ranks}).encode()


def _make_handler() -> Handler:
    logging.getLogger("flwr").setLevel(logging.ERROR)
    return _answer


def main() -> NoReturn:
    """Answer the requests of the command until it closes the pipe."""
    serve(_make_handler)


if __name__ == "__main__":
    main()
