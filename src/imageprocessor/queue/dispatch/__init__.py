"""Notifying workers of waiting jobs."""
