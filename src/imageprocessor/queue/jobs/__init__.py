"""What a row of the jobs table means."""
