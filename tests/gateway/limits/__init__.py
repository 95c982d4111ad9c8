"""Tests of the limits at the levels tenant, licence grant, project and credential."""
