"""The HTTP interface: gateway, routes, uploads."""
