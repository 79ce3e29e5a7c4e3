"""Metrics, drift statistics, logs and traces."""
