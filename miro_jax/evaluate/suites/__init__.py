"""Benchmarks: prompts with judges, over images of any origin.

base          what a suite and a judge are
table         suites by name
prompts/      texts that come with the package, each with its licence
parti, shapes, texts      the suites without a network of their own
rows          the per-image file; manifest, what every number carries
"""
