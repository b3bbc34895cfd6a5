"""HTTP in, HTTP out.

Translates requests to the use cases of ``queue``, and holds no rule of its own.
"""
