"""One cell of the study."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One cell of the study: a training that is done once for each base.

    Attributes:
        name: the cell's.
        part: of the study; parts are run in order.
        recipe: its method.
        base: the kind of base that it begins with.
        data: the world's options.
        flags: more flags of `trapo train`.
        rates: the recipe whose tuned learning rates it takes.
        seeds: which list of bases it is trained on: the plan's "seeds", or the "fresh" ones.
    """

    name: str
    part: str
    recipe: str
    base: str = "some"
    data: str = "world"
    flags: str = ""
    rates: str = ""
    seeds: str = "seeds"
