"""What is wrong with a set-up, found by trying it.

Nothing is changed, and nothing is left behind.
"""
