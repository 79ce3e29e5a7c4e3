"""Stand-ins for GitLab, Kubernetes, an OIDC issuer, Alertmanager."""
