"""Where bytes live.

One small Protocol, one module a backend, and the only place that builds or checks keys.
"""
