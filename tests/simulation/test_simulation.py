"""Both sides are equal at the end, after any events, and the seed decides the events."""

import pytest

from tests.simulation.world import Database, World

SEEDS, BLOCKS = 300, 12
BLOCK = SEEDS // BLOCKS


@pytest.fixture(scope="session")
def simulated(postgres: str, migrated: str, tmp_path_factory: pytest.TempPathFactory) -> Database:
    """A database for simulated worlds."""
    return Database.create(postgres, migrated, tmp_path_factory.mktemp("simulation"))


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(range(first, first + BLOCK), id=f"{first}-{first + BLOCK - 1}")
        for first in range(1, SEEDS + 1, BLOCK)
    ],
)
def test_both_sides_are_equal_in_the_end(
    seeds: range, simulated: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("ERROR")
    for seed in seeds:
        world = World(seed, simulated)
        try:
            world.play()
        except Exception as error:
            pytest.fail(world.report(error), pytrace=not isinstance(error, AssertionError))


def test_a_seed_decides_all(simulated: Database) -> None:
    stories = []
    for _ in range(2):
        world = World(17, simulated)
        world.play()
        stories.append(world.story)
    assert stories[0] == stories[1]


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        ("update opportunities set name = 'Harmed' where remote_id = %s", "name is 'Harmed'"),
        ("update opportunities set deleted_at = now() where remote_id = %s", "marked as deleted"),
        ("update opportunities set workflow_status = 'LOST' where remote_id = %s", "is LOST"),
    ],
)
def test_harm_is_found(harm: str, found: str, simulated: Database) -> None:
    world = World(3, simulated)

    def do_harm() -> None:
        # Not any deal of the CRM: the account may not see it, or it is closed.
        row = world.connection.execute(
            "select remote_id from opportunities where deleted_at is null"
            " and workflow_status_before_close is null order by remote_id limit 1"
        ).fetchone()
        assert row is not None
        world.connection.execute(harm, [row["remote_id"]])

    world.before_the_end = do_harm
    with pytest.raises(AssertionError, match=found):
        world.play()
