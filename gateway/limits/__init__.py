"""Holds: what a request may use at most is set aside before it starts and trued up when it ends."""
