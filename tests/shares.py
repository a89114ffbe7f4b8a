"""Shares with Wilson's interval as scipy has it: what ours are held against."""

from scipy import stats


def wilson(correct: int, total: int) -> dict[str, float]:
    """correct of total with the ends of their interval, as `statistics.Share` has them."""
    ends = stats.binomtest(correct, total).proportion_ci(method="wilson")
    share = {"correct": correct, "total": total, "accuracy": correct / total}
    return share | {"low": float(ends.low), "high": float(ends.high)}
