"""The connect engine: full TCP handshakes on non-blocking sockets, no privilege needed."""

from portspec.scan.connect.engine import ConnectEngine, window_for
from portspec.scan.connect.lane import MAX_ADDRESS_WINDOW

__all__ = ["MAX_ADDRESS_WINDOW", "ConnectEngine", "window_for"]
