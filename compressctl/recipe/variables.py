"""`vars` and `${name}`: each is expanded where it is used, within a depth and a size that no recipe needs.

What nothing uses is never expanded, and what grows too large is refused while it grows: nine short lines can ask for a gigabyte.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from functools import cache
from typing import get_args

from compressctl.core.backend import backends
from compressctl.core.errors import Problem, RecipeError
from compressctl.core.nearest import suggestion
from compressctl.core.secrets import keep_secret
from compressctl.core.source import datasets, decoders, metrics, model_sources
from compressctl.core.tasks import Task
from compressctl.core.technique import techniques
from compressctl.recipe.nodes import MAX_DEPTH, Node, join
from compressctl.recipe.strict_yaml import MAX_BYTES

_MAX_NESTED = 20
"""Variables in variables."""
_USE_COSTS = 16
"""Characters that each value counts as, so that empty ones cannot be used without end."""

_PROBLEM_COSTS = 1024

_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)\}")


def escaped(text: str) -> str:
    """A text that no variable is put into when it is read."""
    return text.replace("${", "$${")


def substituted(root: Node) -> Node:
    """Put variables in. A value that is one variable and nothing else keeps the variable's type. Raises RecipeError."""
    variables = root.child("vars") or Node({}, root.origin)
    if not isinstance(variables.value, dict):
        raise RecipeError([Problem("vars is a mapping of names to values", "vars", origin=variables.origin)])
    expansion = _Expansion(variables)
    result = expansion.of(root.without("vars"), "", (), 0)
    if expansion.problems:
        raise RecipeError(expansion.problems)
    return result


@dataclass
class _Expansion:
    """left: characters that may still come out of variables."""

    variables: Node
    problems: list[Problem] = field(default_factory=list)
    left: int = MAX_BYTES

    def of(self, node: Node, path: str, open_: tuple[str, ...], depth: int) -> Node:
        """The value with its variables put in. open_: those that it is inside of. depth: of the recipe around it."""
        if open_:
            self._take(_USE_COSTS + (len(node.value) if isinstance(node.value, str) else 0), node, path)
        if isinstance(node.value, dict | list) and depth >= MAX_DEPTH:
            raise RecipeError([Problem(f"nested more than {MAX_DEPTH} deep", path, origin=node.origin)])
        if isinstance(node.value, dict):
            return node.with_value(
                {key: self.of(child, join(path, key), open_, depth + 1) for key, child in node.value.items()}
            )
        if isinstance(node.value, list):
            return node.with_value(
                [self.of(child, join(path, index), open_, depth + 1) for index, child in enumerate(node.value)]
            )
        return self._text(node, path, open_, depth) if isinstance(node.value, str) and "${" in node.value else node

    def _text(self, node: Node, path: str, open_: tuple[str, ...], depth: int) -> Node:
        written = str(node.value)
        whole = _VARIABLE.fullmatch(written)
        if whole and whole.group(1) is not None:
            found = self._value_of(whole.group(1).strip(), node, path, open_, depth)
            return node if found is None else replace(found, origin=node.origin, key=node.key)

        references: list[str] = []

        def put(match: re.Match[str]) -> str:
            if match.group(1) is None:
                return "${"
            found = self._value_of(match.group(1).strip(), node, path, open_, depth)
            if found is None:
                return ""
            if isinstance(found.value, dict | list):
                self._refuse(
                    node, path, Problem(f"${{{match.group(1)}}} is not a single value", path, origin=node.origin)
                )
                return ""
            self._take(len(str(found.value)), node, path)
            references.append(found.reference or escaped(str(found.value)))
            return str(found.value)

        value = _VARIABLE.sub(put, written)
        given = iter(references)
        reference = _VARIABLE.sub(lambda match: match[0] if match.group(1) is None else next(given, ""), written)
        return replace(node, value=value, reference=reference if "${env:" in reference else None)

    def _value_of(self, name: str, node: Node, path: str, open_: tuple[str, ...], depth: int) -> Node | None:
        if name.startswith("env:"):
            found = os.environ.get(name[4:])
            if found is None:
                message = f"the environment variable {name[4:]} is not set"
                self._refuse(node, path, Problem(message, path, f"export {name[4:]}=...", node.origin))
                return None
            self._take(len(found), node, path)
            reference = f"${{{name}}}"
            if found not in _public_names():
                keep_secret(found, reference)
            return Node(found, node.origin, node.key, raw=found, reference=reference)
        variable = self.variables.entries.get(name)
        if variable is None:
            hint = suggestion(name, self.variables.entries) if self.variables.entries else "vars: none"
            self._refuse(node, path, Problem(f"${{{name}}} is not in vars", path, hint, node.origin))
            return None
        if name in open_:
            self._refuse(node, path, Problem(f"${{{name}}} refers to itself", path, None, node.origin))
            return None
        if len(open_) >= _MAX_NESTED:
            raise RecipeError(
                [Problem(f"variables in variables, more than {_MAX_NESTED} deep", path, None, node.origin)]
            )
        return self.of(variable, path, (*open_, name), depth)

    def _refuse(self, node: Node, path: str, problem: Problem) -> None:
        """Values that cannot be put in multiply as well, and each is looked for among all names."""
        self.problems.append(problem)
        self._take(_PROBLEM_COSTS, node, path)

    def _take(self, characters: int, node: Node, path: str) -> None:
        self.left -= characters
        if self.left < 0:
            message = f"variables make more than {MAX_BYTES // 1024} KiB of this recipe"
            raise RecipeError([*self.problems, Problem(message, path, "use fewer, or shorter ones", node.origin)])


@cache
def _public_names() -> frozenset[str]:
    """Names that everybody knows, and that a report is computed from."""
    known = {
        name
        for registry in (techniques, backends, metrics, decoders, model_sources, datasets)
        for name in registry.names()
    }
    return frozenset({*known, *get_args(Task), "float16", "bfloat16", "float32", "float64"})
