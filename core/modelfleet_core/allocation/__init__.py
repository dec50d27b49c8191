"""Allocate: how many replicas of each variant run, within GPUs and hourly budget, in minutes."""
