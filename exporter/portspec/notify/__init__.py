"""Telling people by mail: what to tell of a host, the mails, the outbox that loses none, the dialogue with a server."""

from portspec.notify.content import RUNBOOKS, Links
from portspec.notify.letter import render_report_mail, render_test_mail
from portspec.notify.mailer import Mailer, MailerState, MailStatus, discard_queued_mails
from portspec.notify.smtp import DeliveryError, DeliveryErrorReason, Session, send_mails
from portspec.notify.watch import Watch

__all__ = [
    "RUNBOOKS",
    "DeliveryError",
    "DeliveryErrorReason",
    "Links",
    "MailStatus",
    "Mailer",
    "MailerState",
    "Session",
    "Watch",
    "discard_queued_mails",
    "render_report_mail",
    "render_test_mail",
    "send_mails",
]
