"""Audits of hosts about themselves: their signature, their payload, and what the audit tools in them say."""
