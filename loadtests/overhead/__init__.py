"""What the gateway costs: against a bare relay and the engine itself, in alternating rounds of one run."""
