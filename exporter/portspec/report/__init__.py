"""The report of all machines: one page, text or JSON of what is known of each, from both sides. Pure.

The only place beside web for jinja2.
"""

from portspec.report.fleet import Need
from portspec.report.mail import mail_report
from portspec.report.writing import FORMATS, ReportSettings, write_report

__all__ = ["FORMATS", "Need", "ReportSettings", "mail_report", "write_report"]
