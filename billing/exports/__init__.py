"""Documents of an invoice: PDF, CSV, JSON, JP PINT and FOCUS. Pure functions from an `Invoice` to bytes."""
