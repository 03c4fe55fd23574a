"""The press: what turns lessons into tests, notebooks and pages."""
