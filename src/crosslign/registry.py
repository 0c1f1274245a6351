"""One way to plug in: our own classes and functions by name, and those of installed packages through entry points.

A package adds its own so, for a strategy (`crosslign.tasks`, `crosslign.judges`, `crosslign.methods` and
`crosslign.translators` work the same way):

    [project.entry-points."crosslign.strategies"]
    my_strategy = "my_package:MyStrategy"

`from_spec` makes what a user names as `NAME` or `NAME:ARGUMENT`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from crosslign.types import CrosslignError, nearest

F = TypeVar("F", bound=Callable[..., Any])


class Registry:
    """Factories of one kind of thing by name.

    Args:
        kind: what the things are, in the words of an error message: "strategy".
        group: of the entry points.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind, self.group = kind, group
        self._own: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[F], F]:
        """Decorator: make a factory of this package known by name."""

        def add(factory: F) -> F:
            self._own[name] = factory
            return factory

        return add

    def names(self) -> tuple[str, ...]:
        """Names of all factories, ours and those of installed packages, sorted."""
        return tuple(sorted({*self._own, *(entry.name for entry in entry_points(group=self.group))}))

    def factory(self, name: str) -> Any:
        """What is registered under `name`. Raises CrosslignError if nothing is, or if it cannot be imported."""
        if name in self._own:
            return self._own[name]
        entry = next((e for e in entry_points(group=self.group) if e.name == name), None)
        if entry is None:
            raise CrosslignError(f"unknown {self.kind} {name!r}. {nearest(name, self.names())}")
        try:
            return entry.load()
        except Exception as error:  # a user's package may fail in any way while it is imported
            raise CrosslignError(
                f"{self.kind} {name!r} ({entry.value}) could not be imported: {type(error).__name__}: {error}"
            ) from error

    def make(self, name: str, options: Mapping[str, Any] | None = None, /, **defaults: Any) -> Any:
        """Call the factory with `options`, and with those of `defaults` that it takes and `options` leave out.

        Raises CrosslignError for an unknown name, an option that it does not take, or a value that it refuses.
        """
        factory, values = self.factory(name), dict(options or {})
        if not callable(factory):
            raise CrosslignError(
                f"{self.kind} {name!r}: its package names a {type(factory).__name__}, which is no {self.kind}."
            )
        parameters = inspect.signature(factory).parameters
        for key in values:
            if key not in parameters:
                takes = [p for p in parameters if p != "name"] or ["none"]
                raise CrosslignError(f"{self.kind} {name!r} takes no option {key!r}. It takes: {', '.join(takes)}.")
        values = {**{k: v for k, v in defaults.items() if k in parameters}, **values}
        try:
            return factory(**values)
        except (TypeError, ValueError) as error:
            raise CrosslignError(f"{self.kind} {name!r}: {error}") from error

    def from_spec(self, spec: str, protocol: Any, **settings: Any) -> Any:
        """What `NAME` or `NAME:ARGUMENT` names; what stands after the colon is the factory's `argument`.

        Raises CrosslignError as `make` does, if the factory fails in another way, or makes something else than
        `protocol`.
        """
        name, _, argument = spec.partition(":")
        try:
            made = self.make(name, {"argument": argument} if argument else {}, **settings)
        except CrosslignError:
            raise
        except Exception as error:  # a user's package may fail in any way
            raise CrosslignError(f"{self.kind} {spec!r} could not be made: {type(error).__name__}: {error}") from error
        if not isinstance(made, protocol):
            raise CrosslignError(
                f"{self.kind} {name!r}: its package makes a {type(made).__name__}, which is no {self.kind}."
            )
        return made
