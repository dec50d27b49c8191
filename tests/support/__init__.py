"""Builders and verbs of the tests."""
