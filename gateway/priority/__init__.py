"""Priority: who is served next when more is asked of a pool than it can serve."""
