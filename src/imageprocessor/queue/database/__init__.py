"""What any table needs: connections, the tables themselves, their migrations, times as text."""
