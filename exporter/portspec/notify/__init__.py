"""Telling people by mail: what to tell of a host, the mails, the outbox that loses none, the dialogue with a server."""

from portspec.notify.content import RUNBOOKS, Links
from portspec.notify.letter import report_letter, trial_letter
from portspec.notify.mailer import Mailer, MailMemory, MailStatus, withdraw_mails
from portspec.notify.smtp import DeliveryError, Reason, Session, send_each
from portspec.notify.watch import Watch

__all__ = [
    "RUNBOOKS",
    "DeliveryError",
    "Links",
    "MailMemory",
    "MailStatus",
    "Mailer",
    "Reason",
    "Session",
    "Watch",
    "report_letter",
    "send_each",
    "trial_letter",
    "withdraw_mails",
]
