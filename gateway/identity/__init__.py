"""Who is asking: API keys and the principals they stand for."""
