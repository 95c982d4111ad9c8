"""Tenants, and the snapshot of all configuration that a gateway process works from."""
