"""Holds `sitecustomize`, which Python imports at its start when this folder is on PYTHONPATH."""
