"""The connect engine: full TCP handshakes on non-blocking sockets, no privilege needed."""

from portspec.scan.connect.engine import MAX_ADDRESS_WINDOW, ConnectEngine, window_for

__all__ = ["MAX_ADDRESS_WINDOW", "ConnectEngine", "window_for"]
