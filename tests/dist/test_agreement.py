"""Ranks that stop together: one refusal is everybody's, and it is the first rank's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import dist
from minigrad.dist import World
from minigrad.dist.agreement import AgreedError, agreed, gathered
from minigrad.errors import UsageError

words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)


@given(st.lists(st.none() | words, min_size=1, max_size=5))
def test_all_ranks_raise_what_the_first_one_refused(messages: list[str | None]) -> None:
    def main(world: World) -> str:
        def action() -> int:
            if messages[world.rank] is not None:
                raise UsageError(messages[world.rank])
            return world.rank

        try:
            assert agreed(world, action) == world.rank
        except AgreedError as error:
            return str(error)
        return "all agreed"

    heard = dist.spawn(main, ranks=len(messages))
    first = next((rank for rank, message in enumerate(messages) if message is not None), None)
    if first is None:
        assert heard == ["all agreed"] * len(messages)
    else:
        assert len(set(heard)) == 1
        assert heard[0].removeprefix(f"rank {first} of {len(messages)}: ") == messages[first]


def test_other_errors_are_not_agreed_upon() -> None:
    def main(world: World) -> None:
        agreed(world, lambda: 1 // (world.rank - 1))

    with pytest.raises(ZeroDivisionError):
        dist.spawn(main, ranks=2)


@given(
    st.lists(
        st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9)), min_size=1, max_size=4
    )
)
def test_figures_are_gathered_in_rank_order(figures: list[dict]) -> None:
    def main(world: World) -> list[dict]:
        return gathered(world, figures[world.rank])

    assert dist.spawn(main, ranks=len(figures)) == [figures] * len(figures)
