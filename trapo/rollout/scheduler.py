"""Rollouts: the scheduler that draws and grades every sample of a batch of groups.

All schedules draw the same samples, because a sample's seed comes from what it is and never from when it is drawn:

* "barrier": micro-group i of all prompts, then i + 1: four waits for the longest response, as in the reference code;
* "pipelined": each prompt advances on its own, as far as the rewards known so far have decided (`MicroGroups.plan`);
* "speculative": and while slots are free, both branches of what is undecided are begun; the loser is aborted.

Grading goes on while the engine draws. Whole demonstrations cost the engine nothing.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..method.guidance import MicroGroups, RowPlan
from .engines.base import Engine, Request
from .types import Cost, Group, Judge, Row


def sample_seed(run_seed: int, step: int | str, prompt_id: str, index: int, guided: bool) -> int:
    """The 63-bit seed of one sample: a hash of what it is, so that any schedule draws the same sample."""
    key = "\x1f".join(map(str, (run_seed, step, prompt_id, index, int(guided))))
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


@dataclass
class _Bet:
    """A row begun before it was known whether its group wants it; `key` is None once its tokens are there."""

    row: Row
    key: int | None


class Rollout:
    """Draws and grades all samples of `groups`; use once.

    Args:
        groups: the prompts of this batch.
        guidance: decides, from the rewards known so far, what each sample is shown.
        engine: draws the policy's tokens.
        judge: grades finished rows.
        seed, step: the run's seed and the training step (or another label), for `sample_seed`.
        max_tokens: bound on prefix plus own tokens.
        schedule: one of `SCHEDULES`.
        bounded: whether rewards are known to lie in [0, 1]; if not, nothing is decided early.
        progress: share of the training done, for guidance that changes over it.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        guidance: MicroGroups,
        engine: Engine,
        judge: Judge,
        *,
        seed: int,
        step: int | str,
        max_tokens: int,
        schedule: str = "speculative",
        bounded: bool = True,
        progress: float = 0.0,
    ):
        self.groups, self.engine, self.judge = groups, engine, judge
        self.group_size = guidance.group_size
        draws = [sample_seed(seed, step, group.prompt_id, -1, False) / 2**63 for group in groups]
        self._guidance = [guidance.at(progress, draw) for draw in draws]
        self.seed, self.step, self.max_tokens, self.bounded = seed, step, max_tokens, bounded
        # Where rewards come together, nothing is gained by letting prompts advance on their own.
        self.schedule, self.cost = schedule if judge.early else "barrier", Cost()
        self._rows: list[list[Row | None]] = [[None] * self.group_size for _ in groups]
        # What each sample's reward was when it was first known: guidance is decided by these, whatever becomes of them.
        self._known: list[list[float | None]] = [[None] * self.group_size for _ in groups]
        self._place = {id(group): g for g, group in enumerate(groups)}
        self._drawing: dict[int, Row] = {}  # by the engine's key
        self._grading = 0
        self._bets: dict[tuple[int, int], dict[bool, _Bet]] = {}  # (group, sample) -> guided? -> bet, oldest first
        self._level = 0  # the micro-group that "barrier" has come to

    def run(self) -> list[list[Row]]:
        """All rows, guidance.group_size per group, in order.

        On an exception everything in flight is aborted first.
        """
        try:
            self._advance(range(len(self.groups)))
            while any(reward is None for rewards in self._known for reward in rewards):
                if not self._drawing and not self._grading:
                    self._level += 1  # only a barrier can stand still: all that was allowed is graded
                    self._advance(range(len(self.groups)))
                    continue
                if self.schedule == "speculative":
                    self._speculate()
                self._draw()
                self._collect()
        except BaseException:
            for key in self._drawing:
                self.engine.abort(key)
            self.judge.abort()
            raise
        for group, guidance, rows, known in zip(self.groups, self._guidance, self._rows, self._known, strict=True):
            # Which of several twins trains their prefix is settled only when every micro-group is decided.
            final = guidance.plan(known, group.traces, self.bounded)
            for row, plan in zip(rows, final, strict=True):
                row.plan = plan
        return self._rows

    def _advance(self, places: Sequence[int]) -> None:
        """Begin every row of these groups that has become certain."""
        for g in places:
            rows = self._rows[g]
            for index, plan in enumerate(self._guidance[g].plan(self._known[g], self.groups[g].traces, self.bounded)):
                due = plan is not None and (self.schedule != "barrier" or plan.micro_group <= self._level)
                if due and rows[index] is None:
                    rows[index] = self._settle(g, index, plan) or self._begin(g, index, plan)[0]

    def _begin(self, g: int, index: int, plan: RowPlan) -> tuple[Row, int | None]:
        """A new row, handed to the engine (its key) or, where there is nothing to draw, to the judge (None)."""
        row = self._new_row(g, index, plan)
        if self._is_complete(row):
            self._submit(row)
            return row, None
        return row, self._request(row)

    def _new_row(self, g: int, index: int, plan: RowPlan) -> Row:
        group = self.groups[g]
        prefix = group.traces[plan.trace].ids[: plan.length] if plan.length else ()
        seed = sample_seed(self.seed, self.step, group.prompt_id, index, plan.length > 0)
        return Row(group, index, plan, seed, prefix)

    def _is_complete(self, row: Row) -> bool:
        return row.plan.ratio >= 1 or len(row.prefix_ids) >= self.max_tokens

    def _request(self, row: Row) -> int:
        ids = row.group.prompt_ids + row.prefix_ids
        key = self.engine.submit(Request(ids, self.max_tokens - len(row.prefix_ids), row.seed))
        self._drawing[key] = row
        return key

    def _submit(self, row: Row) -> None:
        self._grading += 1
        self.judge.submit(row)

    def _draw(self) -> None:
        """Let the engine work, and hand what has ended to the judge, bets aside."""
        if not self._drawing:
            return
        started = time.perf_counter()
        ended = self.engine.poll()
        self.cost.engine_seconds += time.perf_counter() - started
        self.cost.polls += 1
        for key, sample in ended.items():
            row = self._drawing.pop(key)
            row.own_ids, row.own_logprobs, row.finish = sample.ids, sample.logprobs, sample.finish
            bets = self._bets.get((self._place[id(row.group)], row.index), {})
            bet = next((bet for bet in bets.values() if bet.row is row), None)
            if bet:
                bet.key = None  # graded if its branch wins
            else:
                self._submit(row)

    def _collect(self) -> None:
        """Take up the grades there are; wait for one only if nothing can be drawn meanwhile."""
        started = time.perf_counter()
        graded = self.judge.collect(wait=not self._drawing) if self._grading else []
        self.cost.grading_seconds += time.perf_counter() - started
        self._grading -= len(graded)
        for row in graded:  # a row that nobody could score was not solved
            self._known[self._place[id(row.group)]][row.index] = row.reward if row.reward == row.reward else 0.0
        self._advance(list(dict.fromkeys(self._place[id(row.group)] for row in graded)))

    # ---------------------------------------------------------------- speculation

    def _speculate(self) -> None:
        """While slots are free, begin both branches of undecided samples; give the newest up where work has to wait."""
        while self.engine.free < 0 and self._bets:
            newest = next(reversed(self._bets))
            for bet in self._bets.pop(newest).values():
                self._abort(bet)
        if self.engine.free <= 0:
            return
        for index in range(self.group_size):
            for g, rows in enumerate(self._rows):
                if rows[index] is not None or (g, index) in self._bets:
                    continue
                plans = self._guidance[g].branches(index, self.groups[g].traces)
                rows_of = {guided: self._new_row(g, index, plan) for guided, plan in plans.items()}
                if self.engine.free < sum(not self._is_complete(row) for row in rows_of.values()):
                    return
                self._bets[g, index] = {
                    guided: _Bet(row, None if self._is_complete(row) else self._request(row))
                    for guided, row in rows_of.items()
                }

    def _settle(self, g: int, index: int, plan: RowPlan) -> Row | None:
        """The row that was begun for the branch that has won, others aborted; None if there was no bet on it."""
        bets = self._bets.pop((g, index), None)
        if bets is None:
            return None
        winner = bets.pop(plan.length > 0, None)
        for loser in bets.values():
            self._abort(loser)
        if winner is None:
            return None
        winner.row.plan = plan
        if winner.key is None:
            self._submit(winner.row)
        return winner.row

    def _abort(self, bet: _Bet) -> None:
        if bet.key is None:
            self.cost.aborted_tokens += len(bet.row.own_ids)
        else:
            del self._drawing[bet.key]
            self.cost.aborted_tokens += self.engine.abort(bet.key)
