"""Taking turns: everyone once a round, in a seeded order; what is prepared is not timed."""

import gc

import pytest

from fluxcompile.measure.timing import Run, take_turns


class Clock:
    """Time that passes only when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def played(seed: int) -> list[tuple[int, str]]:
    turns: list[tuple[int, str]] = []
    runs = {name: Run(lambda given: turns.append(given), lambda index, name=name: (index, name)) for name in "abcde"}
    assert take_turns(runs, 4, warmups=2, seed=seed)
    assert all(len(run.ms) == 4 for run in runs.values())
    return turns


def test_everyone_once_a_round_in_a_seeded_order() -> None:
    turns = played(0)
    assert turns[::2] == turns[1::2]  # the first of each two is not timed
    once = turns[::2]
    rounds = [once[at : at + 5] for at in range(0, 30, 5)]
    assert [{index for index, _ in part} for part in rounds] == [{-2}, {-1}, {0}, {1}, {2}, {3}]
    assert all({name for _, name in part} == set("abcde") for part in rounds)
    assert len({"".join(name for _, name in part) for part in rounds}) > 3
    assert turns == played(0)
    assert turns != played(1)


def test_only_the_call_is_timed() -> None:
    clock = Clock()

    def wait(seconds: float) -> None:
        clock.now += seconds

    done: list[bool] = []
    run = Run(lambda index: wait(2 + index), lambda index: wait(100) or index, lambda: done.append(gc.isenabled()))
    assert take_turns({"one": run}, 3, clock=clock, on_round=lambda index: wait(1000))
    assert run.ms == pytest.approx([2000, 3000, 4000])
    assert (run.best_ms, run.median_ms) == pytest.approx((2000, 3000))
    assert done == [False, False, False]
    assert gc.isenabled()


def test_nothing_timed_has_no_best() -> None:
    assert (Run(print).best_ms, Run(print).median_ms) == (None, None)


def test_ctrl_c_keeps_what_was_timed() -> None:
    def stop(index: int) -> None:
        if index == 1:
            raise KeyboardInterrupt

    run = Run(lambda given: None)
    assert not take_turns({"one": run}, 9, on_round=stop)
    assert len(run.ms) == 2
    assert gc.isenabled()
