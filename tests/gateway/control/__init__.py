"""The admin plane."""
