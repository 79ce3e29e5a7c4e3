"""Alert rules and the configuration of Alertmanager."""
