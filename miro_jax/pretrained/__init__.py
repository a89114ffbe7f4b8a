"""Published networks: networks/ (Flax modules and their key tables), weights/ (find, read,
convert), encoders/ (image and caption encoders by name)."""
