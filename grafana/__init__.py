"""What Grafana needs to show portspec: dashboards, and files that provision them."""
