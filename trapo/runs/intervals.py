"""How surely a share is known."""

from statistics import NormalDist


def wilson(share: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a proportion (Wilson 1927): never empty, also at 0 of n.

    Args:
        share: of n that were successes, from 0 to 1.
        n: how many; a fraction where it is an effective sample size.
        level: of confidence.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    scale = 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z / scale * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return (0.0 if share == 0 else middle - half), (1.0 if share == 1 else middle + half)
