"""Jobs: what a row of the jobs table means, and all SQL on jobs and their events."""
