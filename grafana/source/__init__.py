"""The dashboards for Grafana as code: `python -m grafana.source` writes grafana/dashboards/*.json."""
