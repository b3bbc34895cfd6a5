"""What any table needs."""
