"""Data: storage/ (files here and in object stores), sources/ (what is read), records/ (what is
written, and batches of it), shapes/ (the bench world)."""
