"""Image processing: bytes in, values out, without a clock, a network or a database."""
