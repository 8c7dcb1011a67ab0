"""How the other commands speak to the running coordinator: a socket file only its owner can open.

Light enough for every command: it needs neither Flower nor torch.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc

from privacy.errors import ConfigError, FederationError
from server.config import FederationConfig

Answer = Any  # JSON
CONTROL_SERVICE = "cloister.Control"


def control_path(config: FederationConfig) -> Path:
    """The file that says where the running coordinator can be spoken to."""
    return config.state_folder / "control.json"


def control(
    config: FederationConfig, method: str, timeout_s: float = 60.0, **request: object
) -> Answer:
    """Call the running coordinator.

    Returns:
      Its answer, None when no coordinator runs.

    Raises:
      ConfigError: It refuses the request.
    """
    try:
        address = json.loads(control_path(config).read_text())["address"]
    except (OSError, ValueError, KeyError):
        return None
    credentials = grpc.local_channel_credentials(grpc.LocalConnectionType.UDS)
    with grpc.secure_channel(address, credentials) as channel:
        call = channel.unary_unary(f"/{CONTROL_SERVICE}/{method}")
        try:
            answer = json.loads(call(json.dumps(request).encode(), timeout=timeout_s))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return None
            raise ConfigError(f"the coordinator answered: {error.details()}") from None
    if "error" in answer:
        raise ConfigError(answer["error"], hint=answer["hint"])
    return answer["result"]


def personal(request: Mapping[str, Any]) -> dict[str, str]:
    """Who decided what is asked for, and why, where the person said so."""
    return {name: str(request[name]) for name in ("by", "reason") if request.get(name)}


def control_handler(
    behaviour: Callable[[Mapping[str, Any]], Mapping[str, object]],
) -> grpc.RpcMethodHandler:
    """A method of the control service: JSON in, JSON out, an error as its message and hint."""

    def call(raw: bytes, _context: grpc.ServicerContext) -> bytes:
        try:
            return json.dumps({"result": behaviour(json.loads(raw))}).encode()
        except FederationError as error:
            return json.dumps({"error": str(error), "hint": error.hint}).encode()

    return grpc.unary_unary_rpc_method_handler(call)
