"""Weights of published models: find or fetch their files, read them, give them to our networks."""
