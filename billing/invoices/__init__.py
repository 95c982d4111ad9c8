"""Invoices: what a month's usage comes to under the agreements in force, as frozen documents in yen."""
