"""The one history of the database schema."""
