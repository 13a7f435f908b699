"""Who may reach portspec over HTTP, and what each may do there. Knows no HTTP server: web/ asks, this package decides.

`load.py` reads the file of `--web.config.file` into the `WebConfig` of `model.py`; `watched.py` holds the one in force
and reads it again when it changes; `tls.py` makes its SSLContext. For a request, `identity.py` finds the address of the
client and what it may do, `passwords.py` checks a password, `hosts.py` the Host header and `rate.py` the rate.
"""
