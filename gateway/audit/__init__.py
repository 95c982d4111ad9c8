"""What is written down for the audit log."""
