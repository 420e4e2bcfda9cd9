"""dbt's statements, recorded once and sent again in each simulated run.

dbt's SQL differs only in the run's id and number, so a simulated run does not need to start dbt.
A separate process records it, since dbt changes its own process::

    python -m tests.simulation.merges FILE
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from database.environment import ROOT

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

RUN_ID = "5eed5eed-5eed-45ee-85ee-5eed5eed5eed"
NUMBER = "987654321"
RUNS = {
    # name: arguments, and the number of the run that may merge
    "sync": (["--exclude", "tag:reconcile"], NUMBER),
    "full": (["--full-refresh", "--exclude", "tag:reconcile"], NUMBER),
    "reconcile": ([], NUMBER),
    "failed sync": (["--exclude", "tag:reconcile"], "0"),
    "failed reconcile": ([], "0"),
}
_COMMIT = "COMMIT"
_ASKING = re.compile(r"^\s*(/\*.*?\*/)?\s*select\s+(column_name,|count\(\*\) from \S+__staged)")
_COUNTED = re.compile(r"\bas known,.*\bas gone\b", re.DOTALL)


@dataclass(frozen=True)
class Node:
    """A model or a hook: one transaction of dbt."""

    name: str
    statements: tuple[str, ...]
    parents: frozenset[str]
    """The models that must be merged before this one."""

    @property
    def is_hook(self) -> bool:
        """Whether it is a hook before or after all models."""
        return self.name.startswith("on-run-")


class MassDeletionError(Exception):
    """More deals would be marked as deleted than SYNC_MAX_DELETED_SHARE allows."""


class Merges:
    """The statements of each kind of run."""

    def __init__(self, recorded: dict[str, list[list[str]]], parents: dict[str, list[str]]) -> None:
        self._recorded, self._parents = recorded, parents

    @classmethod
    def of(cls, environment: dict[str, str], scratch: Path) -> Merges:
        """Record dbt's statements on the environment's database."""
        file = scratch / "merges.json"
        subprocess.run(
            [sys.executable, "-m", "tests.simulation.merges", str(file)],
            cwd=ROOT,
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return cls(**json.loads(file.read_text()))

    def nodes(self, run: str, run_id: str, number: int | None) -> list[Node]:
        """Return dbt's statements in a run: the hook before, the models, the hook after.

        Args:
            run: a name of `RUNS`.
            run_id: Meltano's id of the run.
            number: the run's number; None if dbt is started without it.
        """
        by_name: dict[str, list[str]] = {}
        for name, statement in self._recorded[run]:
            if statement != _COMMIT:
                text = statement.replace(RUN_ID, run_id)
                if number is None:
                    text = re.sub(rf"select public\.check_run\({NUMBER}\);", "", text)
                by_name.setdefault(name, []).append(text.replace(NUMBER, str(number)))
        return [
            Node(name, tuple(statements), frozenset(self._parents.get(name, ())))
            for name, statements in by_name.items()
        ]


def refuse_mass_deletion(statement: str, row: Any, share: float) -> None:
    """Check the counts like the macro of the same name.

    Raises:
        MassDeletionError: more than this share of the deals is gone.
    """
    if row and _COUNTED.search(statement) and row[1] > share * row[0]:
        raise MassDeletionError(f"{row[1]} of {row[0]} deals are gone")


def _record(file: Path) -> None:
    from dbt.cli.main import dbtRunner
    from dbt.contracts.graph.manifest import Manifest

    sent: list[tuple[str, str]] = []

    def note(event: Any) -> None:
        if event.info.name == "SQLQuery" and event.data.node_info.unique_id:
            name = re.sub(r"^.*\.(oracle_crm-)?|-\d+$", "", event.data.node_info.unique_id)
            sent.append((name, event.data.sql))

    os.environ |= {"MELTANO_RUN_ID": RUN_ID, "ORACLE_CRM_RUN_NUMBER": NUMBER}
    manifest = dbtRunner().invoke(["--quiet", "parse"]).result
    assert isinstance(manifest, Manifest)
    recorded = {}
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        for name, (arguments, number) in RUNS.items():
            connection.execute("update public.load_fence set run_number = %s", [number])
            sent.clear()
            # A run compiles the models in place, so each run gets its own copy.
            runner = dbtRunner(
                manifest=manifest.deepcopy(),  # type: ignore[no-untyped-call]
                callbacks=[note],
            )
            done = runner.invoke(["--quiet", "run", *arguments])
            if done.success == name.startswith("failed"):
                sys.exit(f"dbt's result is wrong, so it cannot be recorded: {name}")
            recorded[name] = list(_without_views(sent))
    parents = {
        name.rpartition(".")[2]: [
            other.rpartition(".")[2] for other in _with_ancestors(name, manifest) if other != name
        ]
        for name in manifest.nodes
    }
    file.write_text(json.dumps({"recorded": recorded, "parents": parents}))


def _with_ancestors(name: str, manifest: Manifest) -> set[str]:
    """Return a model and all models before it."""
    if name not in manifest.nodes:
        return set()
    direct = manifest.nodes[name].depends_on_nodes
    return {name}.union(*(_with_ancestors(one, manifest) for one in direct))


def _without_views(sent: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Leave out views, which already exist, and dbt's own queries."""
    views = {name for name, statement in sent if "__dbt_tmp" in statement}
    return (
        (name, statement)
        for name, statement in sent
        if name not in views and not _ASKING.search(statement)
    )


if __name__ == "__main__":
    _record(Path(sys.argv[1]))
