"""When a sample has solved its problem, wherever a method asks: in guidance, advantages and steps on failed prompts."""

from typing import Any

SOLVED = 0.5  # of a reward of one's own; the grader's are 1 and 0, or for some methods 1 and -1


def is_solved(reward: Any) -> Any:
    """Whether a reward, or each of a tensor, is of a right sample: a half or more.

    Rewards of -1 and 1, of 0 and 1 and shares of a right answer all mean by it what they say.
    """
    return reward >= SOLVED
