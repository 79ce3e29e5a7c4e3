"""Figures of pipelines and GPUs, for a Prometheus pushgateway."""
