"""The HTTP edge: protocol, dialects, and the one pipeline that every request walks."""
