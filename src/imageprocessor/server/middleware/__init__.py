"""The middleware around the routes."""
