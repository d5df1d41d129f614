"""Runs that are killed, stopped, overtaken or doubled, and what the next run makes of them."""
