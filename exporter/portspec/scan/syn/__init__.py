"""The SYN engine: half-open probes on raw sockets, in batches. Needs CAP_NET_RAW when it is opened; Linux only.

engine.py has the turns of its thread; address.py the state of an address, with batch.py, reference_ports.py, burst.py
and timing.py; table.py finds the address of an answer and cookie.py proves it; packets.py converts between bytes and
arrays; socket.py, filter.py and libc.py are the kernel's part; privileges.py drops capabilities.

Nothing is imported here, so that `privileges` can be used without importing numpy.
"""
