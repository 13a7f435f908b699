"""Discovery: hosts found in files of targets, at URLs that list them, and in the DNS.

How to add a source of discovery (`NAME`, as `http_sd`):

1. Its settings: a model of its block in `config/discovery.py` (a subclass of `_SourceModel`, a field of
   `DiscoveryModel`, an entry of `MODELS`, and one of `MISSING` for each required key), and an immutable
   `NameSource(DiscoverySource)` in `config/model.py`, built in `sources()`. Add it to `AnySource`. If it can have a
   secret, add it to `_blocks()` in `config/trust.py`.
2. Its client: a module here with a class that is a `Client` (`discovery.py`): `ask()` returns an `Answer` per file,
   URL or name and never raises, `poll` and `is_changed()` say whether it can detect changes before its interval is
   over. Build answers with `find_hosts()` (`hosts.py`) from `TargetGroup`s, and read lists with `targetgroups.py`. What
   blocks goes into `in_daemon_thread()`, whose NoThreadError is a failure like others. Bound time and size: lists are
   untrusted, and no message may quote a secret or a query.
3. Choose the client in `_client_of()` (`discovery.py`), which imports it only if it is configured.
4. Tests: copy tests/unit/inventory/discovery/test_http.py for the client (test_files.py, if it reads files), and extend
   test_config.py there for the settings, and test_each_kind_of_source_has_its_client in test_discovery.py. Document the
   block in docs/configuration.md, and add its model to test_configuration_page_lists_every_key in
   tests/artefacts/test_documents.py, which then checks that every key has a row.

`Discovery` asks each source on its interval, keeps the last good answer of each place, and merges the hosts.
"""

from portspec.inventory.discovery.discovery import Client, Discovery, SourceStats
from portspec.inventory.discovery.hosts import Answer

__all__ = ["Answer", "Client", "Discovery", "SourceStats"]
