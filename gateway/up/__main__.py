"""`python -m gateway.up`: the same as `sekisho up`, without loading the rest of the command line."""

import argparse
import sys

from gateway.up.command import register

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m gateway.up")
    register(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["up", *sys.argv[1:]])
    sys.exit(arguments.run(arguments))
