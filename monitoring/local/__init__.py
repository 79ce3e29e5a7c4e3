"""Prometheus and Alertmanager on this machine, beside `make demo`."""
