"""Mixed chat traffic of several tenants through Locust, with a bare relay as control and the engine as witness."""
