"""conf.yml → Config. The only place for YAML and validation, apart from discovered lists.

`load.py` reads a file in these steps: `yaml_document.py` (values with their lines), `schema.py` with `fields.py`,
`mail.py`, `audit.py`, `feeds.py`, `deadlines.py` and `discovery.py` (pydantic models, and messages for what is wrong),
`model.py` (the immutable Config that the rest of portspec uses). `trust.py` finds who else can change or read the
files.

To add a key: a field in the model of its block, in `model.py` and where `load.py` builds the Config; checks that
concern several keys in `load.py`. Copy a pair of files in tests/data/conf for its errors.
"""

import os

# Plugins of pydantic, of which portspec has none, are looked for in the metadata of all installed packages: 20 ms.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from portspec.config.load import load, load_again
from portspec.config.model import (
    AuditConfig,
    Config,
    FeedsConfig,
    HostConfig,
    MailConfig,
    MaintenanceWindow,
    Module,
    PortException,
    ScanConfig,
    Specification,
    VulnerabilityException,
    WeeklyTime,
)

__all__ = [
    "AuditConfig",
    "Config",
    "FeedsConfig",
    "HostConfig",
    "MailConfig",
    "MaintenanceWindow",
    "Module",
    "PortException",
    "ScanConfig",
    "Specification",
    "VulnerabilityException",
    "WeeklyTime",
    "load",
    "load_again",
]
