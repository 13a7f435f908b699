"""Notifications by mail: whom to notify of what, the text of the mails, the outbox, and SMTP.

A notification goes through these modules:

    decision      compares the state of a host with what recipients know -> Notification
    notification  the values, which `encoding` writes as JSON into the state file (portspec.store.outbox)
    host_mail     Notification -> Content, about one host; `digest` about many hosts; both with the words of `wording`
    content       Content -> plain text and HTML
    message       Content -> RFC 5322 message; the mails of queued notifications
    mailer        queues notifications, renders and delivers mails, retries; fallback mode with `alertmanager`
    smtp          sessions with the mail server, with `authentication`, `delivery_errors` and `cancellation`

`decision` to `message` are pure functions. Only `mailer` knows the state file, only `smtp` the network.

To add another way to notify, for example a webhook:

1. Settings: add keys to `MailModel` and `mail_config()` in config/mail.py, and to `MailConfig` in config/model.py, with
   a row each in docs/configuration.md. `check_mail()` requires a mail server if `sendemail` is set: change that, too. A
   new key also appears in lists of known keys, in tests/data/conf/*.expected.
2. Rendering: write a module `NAME_message.py` with a pure function from `Notification` to the bytes that are sent, as
   `message.render_mail` does for mails, and choose it by the recipient in `message.render_queued`. Take times, ports
   and reasons from `wording`, so that all use the same words. Copy tests/artefacts/test_mails.py for it: it compares
   what recipients read with files in tests/data.
3. Transport: write a module `NAME.py` with an async context manager like `smtp.Session`, whose `send` raises
   `DeliveryError`: with `is_of_mail` if only this message is retried, otherwise all are. HTTP goes through
   `portspec.client`, as in `alertmanager`; only that module may import aiohttp. Copy tests/unit/notify/test_smtp.py for
   it, which has a real server that misbehaves on each step.
4. Delivery: `mailer.Mailer._deliver` opens one session and sends what is due. Queue entries have a recipient and bytes,
   so the outbox and its limits need no change. Group what is due by transport, and give each transport its own pause
   after a failure (`_server_due`), or one that is down delays the others. The recipients are read in `_render_due` and
   `_deliver`. Copy tests/unit/notify/test_mailer.py for it, which has a scripted server in place of a session.
5. Connect it in portspec.app.service, where the mailer is constructed, and extend tests/unit/app/test_mailing.py.

To add an event (`notification.Event`), extend `decision`, `host_mail`, `wording.summary` and `digest`, and add a golden
mail in tests/artefacts/test_mails.py.
"""

from portspec.notify.alertmanager import AlertmanagerHealth
from portspec.notify.content import RUNBOOKS, Links
from portspec.notify.mailer import Mailer, MailerState, MailStatus, discard_queued_mails
from portspec.notify.message import render_report_mail, render_test_mail, render_worklist_mail
from portspec.notify.smtp import DeliveryError, DeliveryErrorReason, Session, send_mails

__all__ = [
    "RUNBOOKS",
    "AlertmanagerHealth",
    "DeliveryError",
    "DeliveryErrorReason",
    "Links",
    "MailStatus",
    "Mailer",
    "MailerState",
    "Session",
    "discard_queued_mails",
    "render_report_mail",
    "render_test_mail",
    "render_worklist_mail",
    "send_mails",
]
