"""The layers around the routes."""
