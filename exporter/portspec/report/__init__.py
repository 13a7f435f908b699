"""The report of all machines: what portspec writes out about scans and audits.

Data flows through these modules; all but the last four are pure:

* `model.py`: a Snapshot becomes a FleetReport, machines that need attention first, with a summary.
* `view.py`, `wording.py`: what the report says of a machine, and the words that all formats share.
* `html.py`, `text.py`, `json.py`: one module per format. The HTML page is made from `templates/`.
* `formats.py`: the formats by name.
* `output.py`: writing to files, pipes and devices.
* `worklist.py`: what the owners of hosts have to do, as items that pages, tables and mails show.
* `table.py`: tables as CSV.
* `publish_file.py`, `publish_mail.py`: the file that the running exporter keeps up to date, and the daily and weekly
  mails, which `scheduled_mail.py` sends when they are due.

To change what the report says, edit `view.py` and run
`PORTSPEC_GOLDEN=write pytest tests/artefacts/test_report.py`, which writes the examples in tests/data/report. To add
a format, write a module with a function like `write_text()` and name it in `formats.py`; copy
tests/unit/report/test_text.py.
"""

from portspec.report.formats import FORMATS, write_report
from portspec.report.model import Need, ReportSettings
from portspec.report.publish_file import ReportFile, ReportFileStatus
from portspec.report.publish_mail import DailyReport, WeeklyWorklists
from portspec.report.scheduled_mail import Edition, MailedEditions, ScheduledMail
from portspec.report.text import mail_report

__all__ = [
    "FORMATS",
    "DailyReport",
    "Edition",
    "MailedEditions",
    "Need",
    "ReportFile",
    "ReportFileStatus",
    "ReportSettings",
    "ScheduledMail",
    "WeeklyWorklists",
    "mail_report",
    "write_report",
]
