"""Simulates the fair queue of a pool under loads of all kinds: the code that is simulated is the code that runs."""
