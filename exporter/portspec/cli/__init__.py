"""The commands: arguments in, a result and an exit code out.

`arguments.py` has the parser, `main.py` chooses the command and turns errors into exit codes. Each command is a module
of its own, imported only when it runs. Results go through `output.py` and `progress.py`.
"""

from portspec.cli.main import main

__all__ = ["main"]
