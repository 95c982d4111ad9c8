"""Makes `.venv` and, with --serving, `.venv-serving`: `python3.11 install.py [--serving] [--dev]`.

Runs on a bare Python. This file checks the version before it loads anything that an old one could not read; the work is
in `gateway/up/environments.py`.
"""

import platform
import sys
from pathlib import Path

PROVEN = (3, 11)
ALLOWED = ((3, 11), (3, 12))  # 3.12 only where every locked package has a wheel for it


def main() -> int:
    """Returns the exit code: 0 ready, 2 could not be made, 130 stopped."""
    if platform.python_implementation() != "CPython" or sys.version_info[:2] not in ALLOWED:
        found = platform.python_implementation() + " " + platform.python_version()
        cure = "install python3.11 with its venv module, or name one: make PYTHON=/path/to/python3.11"
        print("install.py: Sekisho needs CPython 3.11 and this is " + found + "; " + cure, file=sys.stderr)
        return 2
    if sys.version_info[:2] != PROVEN:
        print("install.py: CPython 3.11 is what the locks are proven on; going on with " + platform.python_version())
    from gateway.up import environments  # only now: an old Python could not read it

    return environments.main(Path(__file__).resolve().parent, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
