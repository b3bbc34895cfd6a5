"""What is sent when something happens to an image."""
