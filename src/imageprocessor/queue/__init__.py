"""Durable processing of uploads.

Job states, the database, dispatch, the task that runs a job, and the use cases.
"""
