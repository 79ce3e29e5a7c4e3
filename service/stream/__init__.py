"""Answers frames from a Kafka topic into another one, with the models of `/predict`."""
