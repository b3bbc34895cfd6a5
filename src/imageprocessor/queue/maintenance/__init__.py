"""What a timer or an operator mends."""
