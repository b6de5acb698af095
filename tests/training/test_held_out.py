"""Held-out sets on any number of processes: whole prompts, each counted once, all processes alike."""

from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler
from trl.trainer.utils import RepeatSampler

from trapo.training.held_out import PADDING, equal_shares, padded


def test_shares_by_hand():
    assert equal_shares(51, 2, 12) == (9, 3)  # three rounds of 2 x 9 are 54
    assert equal_shares(30, 8, 100) == (4, 2)  # 8 x 4 are 32
    assert equal_shares(1319, 8, 100) == (83, 9)  # two rounds of 8 x 83 are 1,328
    assert equal_shares(200, 2, 50) == (50, 0)
    assert equal_shares(1, 8, 1) == (1, 7)


@given(st.integers(1, 200), st.integers(2, 9), st.integers(1, 9), st.integers(1, 64))
def test_whole_prompts_on_every_process_and_each_counted_once(rows, ranks, samples, batch):
    """As accelerate deals TRL's order of samples to the processes."""
    at_once, more = equal_shares(rows, ranks, max(batch // samples, 1))
    assert at_once * samples <= max(batch, samples)
    dealt = []
    for rank in range(ranks):  # each process has its own
        order = RepeatSampler(range(rows + more), mini_repeat_count=samples, seed=1)
        batches = BatchSampler(order, at_once * samples, drop_last=False)
        dealt.append(list(BatchSamplerShard(batches, ranks, rank)))
    assert len({len(mine) for mine in dealt}) == 1
    assert more < ranks * len(dealt[0])
    counted = []
    for drawn in (drawn for mine in dealt for drawn in mine):
        groups = [drawn[i : i + samples] for i in range(0, len(drawn), samples)]
        assert all(len(group) == samples and len(set(group)) == 1 for group in groups)
        counted += [group[0] for group in groups if group[0] < rows]
    assert sorted(counted) == list(range(rows))


def test_padding_is_marked():
    found = padded(Dataset.from_dict({"n": [5, 6]}), 3)
    assert found["n"][:] == [5, 6, 5, 6, 5] and found[PADDING][:] == [False, False, True, True, True]
