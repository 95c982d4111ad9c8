"""Deaths of gateway, worker and engine under load, and the books afterwards. The harness is that of the tests."""
