"""The program ``parlant-sync``, from its first line to where it is loaded; ``python -m parlant_sync`` is the same.

Loading takes a quarter of a second, in which Ctrl-C would end in a traceback.
"""

import signal
import sys


def main() -> int:
    """Run the command line of this process and return its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # The process ends then, without a word; to a shell that is 130. parlant_sync.cli.signals takes over from here,
        # and gives back at the end, when Python is tidying up.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from parlant_sync.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
