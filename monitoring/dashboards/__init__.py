"""Grafana's dashboards, written from one table of panels."""
