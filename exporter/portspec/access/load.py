"""Load the web config file: read, validate, and build the WebConfig."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from portspec.access.model import WebConfig


def load_web_config(path: str | os.PathLike[str], environment: Mapping[str, str] = os.environ) -> WebConfig:
    """Read and check a web config file. Raises ConfigError, which holds every problem of the file with its line."""
    raise NotImplementedError
