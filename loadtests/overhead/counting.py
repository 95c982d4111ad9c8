"""A gateway that counts what it asks its stores: `python -m loadtests.overhead.counting gateway …`.

The bundled PostgreSQL has no pg_stat_statements, and the server cannot tell a request's statements from the polls of
the process; here each is counted under the method that asked for it. Written to COUNTS_FILE when the gateway ends.
"""

import functools
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from redis.asyncio.connection import AbstractConnection

from billing.link import Link
from gateway import cli
from gateway.edge.pipeline import Pipeline

REQUESTS = "requests"
VALKEY = "valkey round trips"
_COUNTS: Counter[str] = Counter()


def _counted(owner: type[Any], name: str, label: str | None) -> None:
    """Count the calls of a method under `label`, or under the name of the calling method."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        _COUNTS[label or _asker()] += 1
        return method(*arguments, **options)

    setattr(owner, name, call)


def _asker() -> str:
    """Who asks, past those that only pass the question on."""
    frame = sys._getframe(2)
    while frame.f_code.co_name == "fetch" and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_qualname


def main() -> int:
    """Run the command line with the counters in place."""
    _counted(Link, "fetch", None)
    _counted(Pipeline, "serve", REQUESTS)
    _counted(AbstractConnection, "send_packed_command", VALKEY)
    try:
        return cli.main()
    finally:
        Path(os.environ["COUNTS_FILE"]).write_text(json.dumps(_COUNTS), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
