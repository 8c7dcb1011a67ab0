"""The training process: the installed ClientApp, answering the agent's requests.

`python -m client.child`, started by the agent in a sandbox without keys and network. What is heavy
or reads records is imported here and nowhere in the agent.
"""

import logging
from typing import NoReturn

from client.worker import Handler, serve


def _make_handler() -> Handler:
    logging.getLogger("flwr").setLevel(logging.ERROR)
    from client.app import app
    from client.progress import listened
    from client.room import answer

    return answer(app, listened)


def main() -> NoReturn:
    """Answer requests until the agent closes the pipe."""
    serve(_make_handler)


if __name__ == "__main__":
    main()
