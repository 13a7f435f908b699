"""When hosts are scanned: rounds, rechecks, scans on demand, and the confirmation of deviations."""
