"""Packages of the tests that other libraries insist on importing by name."""
