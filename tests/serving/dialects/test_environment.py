"""environment: the process's variables over those of a `.env` file."""

import pytest

from headrace.serving.dialects import environment

CASES = {
    "plain": ("A=1", {"A": "1"}),
    "spaces": ("  A = two words  ", {"A": "two words"}),
    "export": ("export A=1", {"A": "1"}),
    "empty": ("A=\nB=2", {"A": "", "B": "2"}),
    "single-quotes": ("A=' ${B} #x '", {"A": " ${B} #x "}),
    "double-quotes": ('A="x\\ty \\"z\\""', {"A": 'x\ty "z"'}),
    "several-lines": ('A="x\ny"\nB=1', {"A": "x\ny", "B": "1"}),
    "json": ('A={"uri": "./m", "extra": {"a": 1}}', {"A": '{"uri": "./m", "extra": {"a": 1}}'}),
    "comments": ("# A=0\n\nA=1 # one\nB=a#b\nC='x' # y", {"A": "1", "B": "a#b", "C": "x"}),
    "variables": ("A=1\nB=${A}2${HOME_}${NO:-d}", {"A": "1", "B": "12/home" + "d"}),
    "windows": ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
    "noise": ("hello\n=3\nA=1\n[x]", {"A": "1"}),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_parse(text, expected):
    """A `.env` line sets what it says, as the common readers of such files understand it."""
    assert dict(environment.parse(text, {"HOME_": "/home"})) == expected


def test_process_stands_over_file(tmp_path):
    """What the process sets holds over the file, whatever the capitals of the name, and each says where it is from."""
    (tmp_path / ".env").write_text("MLSERVER_HOST=a\nMLSERVER_DEBUG=1\n")
    found = environment.read({"mlserver_host": "b"}, tmp_path)
    assert found.get("MLSERVER_HOST").text == "b"
    assert found.get("MLSERVER_HOST").origin == "environment mlserver_host"
    assert found.get("mlserver_debug").text == "1"
    assert found.get("mlserver_debug").origin == ".env file, MLSERVER_DEBUG"
    assert found.get("MLSERVER_NAME") is None


def test_no_file(tmp_path):
    """Without a `.env` file the process's variables are all there is."""
    assert environment.read({"A": "1"}, tmp_path).get("a").text == "1"
