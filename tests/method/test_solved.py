import pytest
import torch

from trapo.method.advantage import Groups, srft
from trapo.method.guidance import RowPlan, Trace
from trapo.method.presets import PRESETS
from trapo.method.solved import is_solved
from trapo.rollout.types import Group, Row


@pytest.mark.parametrize("reward, solved", [(1, True), (0.5, True), (0.49, False), (0, False), (-1, False)])
def test_all_who_ask_get_one_answer(reward, solved):
    row = Row(Group("p", (1,), [], {}), 0, RowPlan(0), 0, (), reward=reward)
    assert row.solved is solved and is_solved(reward) is solved
    groups = Groups(torch.tensor([[float(reward)]]), torch.tensor([[False]]), torch.zeros(1, 1))
    assert srft(groups)[0].item() == pytest.approx(0.1 if solved else -1)
    plans = PRESETS["shortest-prefix"].plan([reward] * 4 + [None] * 4, [Trace(tuple(range(8)))])
    assert (plans[4].length == 0) is solved  # no prefix is searched for where a plain sample is right


def test_a_row_without_a_reward_has_solved_nothing():
    assert not Row(Group("p", (1,), [], {}), 0, RowPlan(0), 0, ()).solved
