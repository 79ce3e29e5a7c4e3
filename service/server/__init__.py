"""The processes: a supervisor that accepts connections, and its workers."""
