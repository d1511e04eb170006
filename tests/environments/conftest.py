"""Tiny wheels made by hand, and models' folders that ask for them: nothing here needs a network or an index."""

import base64
import hashlib
import os
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from headrace.environments.prepare import Environments, Prepared


def wheel(folder: Path, name: str, version: str, *, requires: tuple[str, ...] = (), tag: str = "py3-none-any") -> Path:
    """A wheel whose one module says its version."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    metadata = [
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}",
        *(f"Requires-Dist: {each}" for each in requires),
    ]
    members = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = []
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record.append(f"{member},sha256={digest},{len(text)}")
            archive.writestr(member, text)
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]) + "\n")
    return path


def model(folder: Path, *lines: str, name: str = "requirements.txt") -> Path:
    """A model's folder whose file has these lines, and finds packages in `wheels` beside it only."""
    folder.mkdir(parents=True, exist_ok=True)
    head = [] if name.endswith("yaml") else ["--no-index", "--find-links ../wheels"]
    (folder / name).write_text("\n".join([*head, *lines, ""]))
    return folder


class Yard:
    """A folder with wheels, models and a cache, and what every test asks of them."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.cache = top / "cache"

    def wheel(self, name: str, version: str, **options: Any) -> Path:
        return wheel(self.top / "wheels", name, version, **options)

    def model(self, *lines: str, name: str = "requirements.txt", folder: str = "model") -> Path:
        return model(self.top / folder, *lines, name=name)

    def prepare(self, place: Path | None, wanted: str = "auto", **options: Any) -> Prepared:
        return Environments().prepare(
            place, wanted, cache=self.cache, describe="model 'churn'", **{"trusted": True, **options}
        )

    def says(self, prepared: Prepared, code: str) -> str:
        """What an environment's interpreter prints."""
        python = f"{prepared.folder}/bin/python"
        return subprocess.run([python, "-I", "-c", code], check=True, capture_output=True, text=True).stdout.strip()

    def left(self) -> list[str]:
        """What stands in the cache beside logs and locks."""
        kept = (self.cache / "environments").glob("*")
        return sorted(each.name for each in kept if each.suffix not in {".log", ".lock"})


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    """No index or folder of wheels that whoever runs the tests has configured."""
    for key in [each for each in os.environ if each.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_NO_CONFIG", "1")


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


@pytest.fixture(params=["uv", "pip"])
def installer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Each tool in turn; uv only where it is installed."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    if request.param == "uv":
        if shutil.which("uv") is None:
            pytest.skip("uv is not installed")
    else:
        only_pip(monkeypatch, tmp_path)
    return request.param


@pytest.fixture
def pip_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    only_pip(monkeypatch, tmp_path)


def only_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A PATH without uv, conda or other Pythons."""
    bare = tmp_path / "path"
    bare.mkdir(exist_ok=True)
    monkeypatch.setenv("PATH", str(bare))
