"""Pretrained networks as pure modules, each with the table of its published keys."""
