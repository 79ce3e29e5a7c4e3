"""Dashboards, rules, alerts and their tools; see docs/monitoring.md."""
