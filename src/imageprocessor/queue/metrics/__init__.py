"""What the processes of this host count for Prometheus, and the files in which they do so."""
