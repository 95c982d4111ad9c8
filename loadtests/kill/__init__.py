"""Deaths of every process under load, and the books afterwards. The harness is that of the tests."""
