"""How an image looks, in a few bytes: its colours, and what to show until it is loaded."""
