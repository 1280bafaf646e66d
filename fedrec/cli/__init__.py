"""The command line: thin, with lazy imports."""

import sys


def entry() -> None:
    """The entry point of the command: an interrupt during its imports ends it as quietly as one after them."""
    try:
        from fedrec.cli.main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("fedrec: interrupted.\n")
        sys.exit(130)
    run()
