"""What a tenant may do: licence documents, compiled once, decided in microseconds."""
