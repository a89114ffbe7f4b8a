"""Annotated records: their form on disk, shards, levels, the manifest, and batches of them."""
