"""The metrics and the HTTP server that Prometheus scrapes."""
