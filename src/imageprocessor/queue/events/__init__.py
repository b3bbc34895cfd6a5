"""Consumers of the outbox: those who tell others what has happened."""
