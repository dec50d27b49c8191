"""Publish: what a slot and a dollar are worth, from live capacity and demand, in seconds."""
