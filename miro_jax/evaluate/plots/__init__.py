"""The plots of the paper, from evaluations, from the paper's own numbers, or both.

facts.py         what is drawn: series by measure and model, read from files
figure.py        a figure: panels, legend, warnings, and the same numbers as JSON and CSV
curves.py        convergence, test-time scaling, the sweep of a target
radars.py        rewards, GenEval, synthetic captions
bars.py          bars against other models
images.py        isolation, trade-offs, progression: sampled images and their scores
command.py       miro-jax plot KIND FILES --out=F.svg
published/       numbers of the paper, with their source
"""
