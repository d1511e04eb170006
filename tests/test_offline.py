"""A model without a server around it. Left out: what batch jobs, functions and trust folders do with it, in their rooms."""

from __future__ import annotations

import contextlib
import functools
import http.server
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from headrace.errors import LoadFailed, SettingsError
from headrace.offline import open_model
from headrace.payload import Tensor

ROWS = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])


@pytest.fixture
def model():
    return LinearRegression().fit(ROWS, ROWS.sum(axis=1))


@pytest.fixture
def settings(tmp_path):
    return {"artifacts.cache_dir": str(tmp_path / "cache"), "models.optimize": "off"}


@pytest.fixture
def web(tmp_path):
    """A folder behind a URL."""
    folder = tmp_path / "web"
    folder.mkdir()
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield folder, f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def ask(model, rows=ROWS):
    (answer,) = model.predict([Tensor("input-0", "FP64", rows)])
    return answer.data.reshape(-1)


def held(cache):
    """Copies that this process keeps the cache from removing."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.append(each.readlink())
    return [file for file in found if file.is_relative_to(cache) and file.suffix == ".use"]


def test_it_answers_threads_until_it_is_closed(model, settings, tmp_path):
    """Several threads get the answers of their own rows; after `close`, once or twice, it says that it is not open."""
    joblib.dump(model, tmp_path / "sum.joblib")
    opened = open_model(str(tmp_path / "sum.joblib"), settings=settings)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(functools.partial(ask, opened), [ROWS * number for number in range(40)]))
    np.testing.assert_allclose(found, [(ROWS * number).sum(axis=1) for number in range(40)], atol=1e-9)
    opened.close()
    opened.close()
    with pytest.raises(LoadFailed, match="is not open"):
        ask(opened)


def test_its_files_are_held_as_long_as_it_is_open(model, settings, web, tmp_path):
    """The cache may remove a fetched model once it is closed, and not before; one that is damaged is held by nobody."""
    folder, at = web
    joblib.dump(model, folder / "sum.joblib")
    (folder / "damaged.joblib").write_bytes(b"\x80\x04damaged")
    with open_model(f"http://{at}/sum.joblib", settings=settings) as opened:
        np.testing.assert_allclose(ask(opened), ROWS.sum(axis=1))
        assert len(held(tmp_path / "cache")) == 1
    assert held(tmp_path / "cache") == []
    with pytest.raises(LoadFailed):
        open_model(f"http://{at}/damaged.joblib", settings=settings)
    assert held(tmp_path / "cache") == []


def test_one_model_is_meant(model, settings, tmp_path):
    """Of a folder with several models none is chosen; the error names them."""
    for name in ("one", "two"):
        joblib.dump(model, tmp_path / f"{name}.joblib")
    with pytest.raises(SettingsError, match=r"holds 2 models \(model 'one', model 'two'\)"):
        open_model(str(tmp_path), settings=settings)
