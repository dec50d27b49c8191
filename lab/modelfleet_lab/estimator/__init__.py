"""Looks into estimators: what they know, and what they would estimate for a text."""
