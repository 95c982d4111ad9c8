"""The admin plane `/admin/v1`: who may change what, every change with its record, and tenants as code."""
