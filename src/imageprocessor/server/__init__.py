"""HTTP in, HTTP out: translates requests to the use cases of ``queue``, and holds no rule of its own."""
