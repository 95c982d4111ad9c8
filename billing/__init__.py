"""Journal, ledger, prices and usage. Knows nothing of HTTP and nothing of what a licence means."""
