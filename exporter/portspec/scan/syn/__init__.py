"""The SYN engine: half-open probes on raw sockets, in batches. Needs CAP_NET_RAW when it is opened; Linux only.

Nothing is imported here, so that who only wants `privileges` does not pay for numpy.
"""
