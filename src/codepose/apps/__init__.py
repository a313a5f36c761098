"""Programs: what a person runs."""
