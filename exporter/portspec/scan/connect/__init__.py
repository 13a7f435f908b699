"""The connect engine: full TCP handshakes on non-blocking sockets. Needs no privilege.

engine.py has the turns of its thread, address.py the state of an address, liveness.py the proof that a silent port is
filtered, outstanding.py the probes that wait for an answer, sockets.py what the kernel does.
"""

from portspec.scan.connect.address import MAX_ADDRESS_WINDOW
from portspec.scan.connect.engine import ConnectEngine, window_for

__all__ = ["MAX_ADDRESS_WINDOW", "ConnectEngine", "window_for"]
