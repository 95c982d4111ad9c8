"""Sekisho, the checkpoint between partners' applications and the models: who may ask what, at which price, provably."""
