"""Errors that a person can fix, printed as one sentence: field, value, cure."""

from contracts import commands


class MonitoringError(Exception):
    """A file, program, setting or service is missing, in use, or wrong."""


command = commands.command(MonitoringError)
