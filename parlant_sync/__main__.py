"""The program ``parlant-sync``, from its first line to where it is loaded; ``python -m parlant_sync`` is the same.

Loading takes a quarter of a second, in which Ctrl-C would end in a traceback.
"""

import atexit
import os
import signal
import sys
import threading


def main() -> int:
    """Run the command line of this process, and end the process with its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # The process ends then, without a word; to a shell that is 130. parlant_sync.cli.signals takes over from here,
        # and gives back at the end, when Python is tidying up.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from parlant_sync.cli import main as run

    code = run()
    _end(code)
    return code


def _end(code: int) -> None:
    """End the process as Python does, but do not take apart all that was loaded: that is a tenth of a short command.

    Returns if something cannot be written, for Python to report it.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):  # None, or closed
        return
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
