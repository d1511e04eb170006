"""What a person may call a kind, and how commands name and complete resources."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from headrace.client.control import ControlClient, Resource

NAMES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "Model": ("model", "models", "mlm"),
        "Pipeline": ("pipeline", "pipelines", "mlp"),
        "Experiment": ("experiment", "experiments", "mlx", "mle", "exp"),
        "Server": ("server", "servers", "mls"),
        "Rollout": ("rollout", "rollouts", "ro"),
    }
)
"""Our kinds, with plurals and short names: those of Seldon Core's where it has one."""

FOREIGN: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "InferenceService": ("inferenceservice", "inferenceservices", "isvc", "kfservice", "kfservices"),
        "InferenceGraph": ("inferencegraph", "inferencegraphs", "ig"),
        "TrainedModel": ("trainedmodel", "trainedmodels", "tm"),
        "ServingRuntime": ("servingruntime", "servingruntimes"),
        "SeldonDeployment": ("seldondeployment", "seldondeployments", "sdep"),
    }
)
"""Kinds of manifests made for others: they mean the resources that were made of such manifests."""


def kind_of(text: str) -> str:
    """The kind that a word means: one of `NAMES`, or of `FOREIGN`.

    Raises:
        UsageError: none.
    """
    word = text.lower().partition(".")[0]  # `models.mlops.seldon.io`, as kubectl takes it
    for kind, names in (*NAMES.items(), *FOREIGN.items()):
        if word in names:
            return kind
    import difflib

    known = [name for names in (*NAMES.values(), *FOREIGN.values()) for name in names]
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"kinds are {', '.join(names[1] for names in NAMES.values())}"
    raise click.UsageError(f"no kind '{text}'; {hint}", click.get_current_context(silent=True))


def own_kind_of(text: str) -> str:
    """As `kind_of`, for what only our kinds have.

    Raises:
        UsageError: it is none of ours.
    """
    kind = kind_of(text)
    if kind not in NAMES:
        raise click.UsageError(
            f"{kind} is a kind of manifest; ask for what was made of it: `headrace get {text}` lists that",
            click.get_current_context(silent=True),
        )
    return kind


def targets_of(words: Iterable[str]) -> list[tuple[str, str]]:
    """Kind and name of each: `model/iris pipeline/chain`, or `model iris churn`.

    Raises:
        UsageError: they are neither.
    """
    words = list(words)
    if words and not any("/" in word for word in words):
        kind, *names = words
        if not names:
            raise click.UsageError(
                f"expected KIND/NAME or KIND NAME, got only '{kind}'", click.get_current_context(silent=True)
            )
        return [(own_kind_of(kind), name) for name in names]
    found = []
    for word in words:
        kind, slash, name = word.partition("/")
        if not slash or not name:
            raise click.UsageError(f"expected KIND/NAME, got '{word}'", click.get_current_context(silent=True))
        found.append((own_kind_of(kind), name))
    return found


def one_of(words: Iterable[str]) -> tuple[str, str]:
    """Kind and name of the one resource that words mean: `model iris` or `model/iris`.

    Raises:
        UsageError: they mean none, or several.
    """
    found = targets_of(words)
    if len(found) != 1:
        raise click.UsageError(f"expected one resource, got {len(found)}", click.get_current_context(silent=True))
    return found[0]


def maybe_of(words: Iterable[str]) -> tuple[str, str]:
    """Kind and name that words mean, either of them empty: nothing, `models`, `model iris` or `model/iris`.

    Raises:
        UsageError: they mean something else.
    """
    words = list(words)
    if not words:
        return "", ""
    if len(words) == 1 and "/" not in words[0]:
        return kind_of(words[0]), ""
    if len(words) == 1:
        kind, _, name = words[0].partition("/")
        return kind_of(kind), name
    if len(words) == 2 and "/" not in "".join(words):
        return kind_of(words[0]), words[1]
    raise click.UsageError(
        f"expected KIND, KIND NAME or KIND/NAME, got '{' '.join(words)}'", click.get_current_context(silent=True)
    )


def find(client: ControlClient, kind: str, name: str = "") -> tuple[Resource, ...]:
    """The resources of a kind, ours or foreign, or the one of a name; all of them when no kind is given.

    Raises:
        NotFound: none of that name.
    """
    if kind not in FOREIGN:
        return client.get(kind, name)
    from headrace.errors import NotFound

    made = tuple(each for each in client.get() if each.origin.rpartition(" ")[2] == kind)
    found = tuple(each for each in made if not name or each.metadata.name == name)
    if name and not found:
        raise NotFound(f"nothing called '{name}' was made of a manifest of kind {kind}")
    return found


def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Kinds, then names: for the shell. Names are asked of a server on this machine or the one that is named; none
    that answers means none to offer.
    """
    given = list(ctx.params.get(param.name or "", None) or ()) if param.nargs == -1 else []
    kind_word, slash, part = incomplete.partition("/")
    if slash:
        return [f"{kind_word}/{name}" for name in _names(ctx, kind_word) if name.startswith(part)]
    before = given or [str(ctx.params[each]) for each in ("kind",) if ctx.params.get(each)]
    if before and "/" not in before[0]:
        return [name for name in _names(ctx, before[0]) if name.startswith(incomplete)]
    return [names[0] for names in NAMES.values() if names[0].startswith(incomplete)]


def complete_models(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of models, for the shell."""
    return [name for name in _names(ctx, "model") if name.startswith(incomplete)]


def complete_pipelines(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of pipelines, for the shell."""
    return [name for name in _names(ctx, "pipeline") if name.startswith(incomplete)]


def _names(ctx: click.Context, kind: str) -> list[str]:
    from headrace.cli import remote
    from headrace.errors import HeadraceError

    with contextlib.suppress(HeadraceError, click.UsageError):
        url, token = ctx.params.get("control_url"), ctx.params.get("token")
        with remote.control(url or "http://127.0.0.1:8083", token or "", 1.0) as client:
            return [each.metadata.name for each in find(client, kind_of(kind))]
    return []  # a shell has no place to show why
