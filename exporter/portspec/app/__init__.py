"""Build every part and connect them: the only place that constructs.

Nothing is imported here, so that a command which scans once does not load the web server.
"""
