"""`python -m portspec`, and the console script."""

import signal
import sys


def main() -> int:
    """Run the command of the command line; gives its exit code.

    SIGHUP waits from the first moment on: it would end the exporter, which handles it once it can reload. Before that
    Python itself starts, for some 10 ms; whoever starts portspec with SIGHUP blocked or ignored is safe there, too.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    from portspec.cli import main as run

    return run(mask=mask)


if __name__ == "__main__":
    sys.exit(main())
