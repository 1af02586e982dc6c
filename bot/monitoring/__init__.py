"""Logs, health, metrics, and the HTTP endpoints for probes and Prometheus."""
