"""The study: many small networks of the shapes world, and which of the paper's claims they show.

measured      what was measured of the networks: verdicts and reward scores, a file for each group
"""
