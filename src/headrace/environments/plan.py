"""Where a model will run, decided from values: the server's own environment, one built, a folder, a packed one.

Third step of the walk; `prepare` calls it and does what it says. Laws:

* nothing unmet -> own, unless `build` asks otherwise; without a file there is nothing to build and nothing unmet;
* `auto`, a file of MLflow's, only versions differ -> own, with a warning: MLflow records what happened to be installed;
* `auto`, anything missing, or a file that a person wrote -> build;
* nothing but `own` for a model that is not trusted: an install runs code of the packages it installs, and another
  interpreter runs whatever lies in its folder;
* `off` -> own, whatever is unmet;
* a path -> that environment, unpacked first when it is packed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from headrace.environments.requirements import Requirements
from headrace.environments.unmet import Unmet

ARCHIVES: Final = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar", ".zip")
"""Names of packed environments end so."""
_NAMED: Final = 8
"""Unmet packages named in a message; the rest are counted."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do."""

    kind: Literal["own", "build", "folder", "tarball", "refuse"]
    reason: str
    """Why, for a person; of `refuse`, with what to do about it."""
    warnings: tuple[str, ...] = ()
    fallback: bool = False
    """Of `build`: whether the server's own environment will do, with a warning, when building fails."""


def named(unmet: Sequence[Unmet]) -> str:
    """Unmet packages in a line."""
    more = f" and {len(unmet) - _NAMED} more" if len(unmet) > _NAMED else ""
    return ", ".join(map(str, unmet[:_NAMED])) + more


def plan(*, wanted: str, requirements: Requirements | None, unmet: Sequence[Unmet], trusted: bool) -> Plan:
    """Decide.

    Args:
        wanted: `auto`, `build`, `off` or the path of an environment: the setting `environment`.
        requirements: Of the file beside the model; None: there is none.
        unmet: Of these, what the running environment does not meet.
        trusted: Whether the load policy trusts the model and what lies beside it.
    """
    if wanted not in {"auto", "build", "off"}:
        return _given(wanted, trusted=trusted)
    if requirements is None:
        return Plan(kind="own", reason="nothing is asked for")
    file = requirements.source
    if wanted == "off":
        warnings = (f"{file} asks for {named(unmet)}; served without, as `environment: off` says",) if unmet else ()
        return Plan(kind="own", reason="`environment: off`", warnings=warnings)
    if wanted == "auto" and not unmet:
        return Plan(kind="own", reason=f"all that {file} asks for is here", warnings=requirements.notes)
    missing = [each for each in unmet if each.kind == "missing"]
    if not trusted:
        return _distrusted(file, unmet, missing)
    if wanted == "build":
        return Plan(kind="build", reason="`environment: build`", warnings=requirements.notes)
    if requirements.origin == "mlflow" and not missing:
        warning = (
            f"{file} asks for {named(unmet)}; served by the packages that are here: `environment: build` gives the "
            "model its own"
        )
        return Plan(kind="own", reason="only versions differ from those MLflow recorded", warnings=(warning,))
    reason = f"{file} asks for {named(missing or unmet)}"
    return Plan(kind="build", reason=reason, warnings=requirements.notes, fallback=not missing)


def _given(path: str, *, trusted: bool) -> Plan:
    if not trusted:
        reason = (
            f"the environment {path} was not used: the load policy does not trust this model, and another interpreter "
            "runs whatever lies in its folder; set `load_policy: trusted` for a model whose origin is assured"
        )
        return Plan(kind="refuse", reason=reason)
    kind: Literal["tarball", "folder"] = "tarball" if path.endswith(ARCHIVES) else "folder"
    return Plan(kind=kind, reason=f"`environment: {path}`")


def _distrusted(file: str, unmet: Sequence[Unmet], missing: Sequence[Unmet]) -> Plan:
    if missing:
        reason = (
            f"{file} asks for {named(missing)}, and no environment is built for a model that the load policy does not "
            "trust, since installing runs code; install them for the server, or set `load_policy: trusted` for a model "
            "whose origin is assured"
        )
        return Plan(kind="refuse", reason=reason)
    if not unmet:
        warning = "`environment: build` is not followed for a model that the load policy does not trust"
        return Plan(kind="own", reason="not trusted", warnings=(warning,))
    warning = (
        f"{file} asks for {named(unmet)}; served by the packages that are here, since no environment is built for a "
        "model that the load policy does not trust"
    )
    return Plan(kind="own", reason="not trusted", warnings=(warning,))
