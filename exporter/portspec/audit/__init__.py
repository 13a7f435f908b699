"""Incoming audits of hosts, from the bytes to what is known of each host.

    web/audits.py ─┐                                            ┌─► state.py ─► /metrics, pages, mails
                   ├─► admission.py ─► ingest.py ─► store ─► service.py
    cli/receive.py ┘    envelope.py                  (archive)  └─► tools/ reads the output of the audit tool
      mail.py           payload.py

Everything but `ingest.py` and `service.py` is pure. An audit is admitted by its signature and by the roster, archived
unchanged, and read from the archive afterwards. The result is stored as a document (`document.py`), so that a restart
does not read all outputs again.

To add a reader for the output of another audit tool, see `tools/__init__.py`.
"""
