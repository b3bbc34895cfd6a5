"""The HTTP service.

Translates requests into calls to the use cases in ``queue``; contains no rules of its own.
"""
