"""What best-of-n is worth: the expected best score of n candidates, for every n up to N.

With scores s_(1) <= ... <= s_(N) of N candidates, n of them drawn without replacement have

    E[best of n] = sum_k s_(k) C(k - 1, n - 1) / C(N, n)

since s_(k) is the best of those C(k - 1, n - 1) choices that take it and n - 1 of the k - 1 below.
This is exact: no resampling, and no luck of which candidates came first. Letters: P prompts, N
candidates.
"""

import math

import numpy as np

from miro_jax.data.printable import counted
from miro_jax.report.charts import Axis, Chart, fit_axis, svg_file
from miro_jax.report.statistics import bootstrap_mean

_MOST_LINES = 40  # thin lines of single prompts
_POINTS = 12  # marked, where there are more candidates
_FEWEST = 8  # prompts for which an interval means something
_APART = 1.25  # least ratio of ticks


def expected_best(scores: np.ndarray) -> np.ndarray:
    """Return the expected best score of n candidates.

    Args:
      scores: [..., N] float.

    Returns:
      [..., N] float64, for n = 1 (the mean) to N (the maximum), never falling.

    Raises:
      ValueError: there is no candidate, or a score is not finite.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim < 1 or not scores.shape[-1] or not np.isfinite(scores).all():
        raise ValueError(f"scores must be [..., N] with N >= 1, all finite; got {scores.shape}.")
    return np.einsum("...k,nk->...n", np.sort(scores, axis=-1), _weights(scores.shape[-1]))


def draw_curve(scores: np.ndarray, reward: str) -> str:
    """Draw the curve of best-of-n as a standalone SVG file.

    Args:
      scores: [P, N]. reward: identity of the reward, for the axis.

    Returns:
      SVG text: the mean over prompts as a thick line, 95 % intervals where the prompts are not
      few, each prompt as a thin line.
    """
    curves = expected_best(scores)
    count = curves.shape[1]
    numbers = list(range(1, count + 1))
    chosen = sorted({round(x) for x in np.geomspace(1, count, min(count, _POINTS))})
    means = [_mean(curves[:, n - 1]) for n in chosen]
    single = curves[:_MOST_LINES] if len(curves) > 1 else curves[:0]
    shown = [*curves.mean(axis=0), *single.ravel(), *(m[end] for m in means for end in m)]
    chart = Chart(_number_axis(count), fit_axis(shown, f"expected best score, {reward}"), 560, 330)
    for one in single:
        chart.line(numbers, one, "raw")
    chart.line(numbers, curves.mean(axis=0), "series a")
    titles = [f"n = {n}: {m['mean']:.4g}" for n, m in zip(chosen, means, strict=True)]
    chart.points(chosen, means, "a", titles)
    alt = (
        f"Expected best {reward} score of n candidates, from {means[0]['mean']:.4g} at 1 to "
        f"{means[-1]['mean']:.4g} at {count}; mean over {counted(len(curves), 'prompt')}."
    )
    title = _note(len(curves), len(single))
    return svg_file(title, [chart.svg(alt)], chart.width, chart.height, columns=1)


def _mean(values: np.ndarray) -> dict[str, float]:
    """Return mean, low and high; without an interval where there are few values."""
    if len(values) >= _FEWEST:
        return bootstrap_mean(values)
    return dict.fromkeys(("mean", "low", "high"), float(values.mean()))


def _note(prompts: int, lines: int) -> str:
    if prompts == 1:
        return "One prompt; exact expectation over all choices of n candidates."
    several = f"the first {lines} prompts" if lines < prompts else "the prompts"
    bars = ", with 95 % intervals" if prompts >= _FEWEST else ""
    return f"Thick: mean of {prompts} prompts{bars}. Thin: {several}."


def _number_axis(count: int) -> Axis:
    label = "candidates n"
    if count == 1:
        return Axis(0, 2, (1,), label)
    # The last power of two gives way where its number would touch that of the end.
    powers = (2**k for k in range(count.bit_length()))
    ticks = (*(power for power in powers if power * _APART <= count), count)
    return Axis(1, count, ticks, f"{label}, log scale", log=True)


def _weights(count: int) -> np.ndarray:
    """Return [N, N]: row n - 1, column k - 1 is C(k - 1, n - 1) / C(N, n), by exact integers."""
    out = np.zeros((count, count))
    for n in range(1, count + 1):
        total = math.comb(count, n)
        out[n - 1, n - 1 :] = [math.comb(k - 1, n - 1) / total for k in range(n, count + 1)]
    return out
