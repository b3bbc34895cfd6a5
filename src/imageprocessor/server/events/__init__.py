"""Reporting events to requests: those that wait for a job, and streams."""
