"""Reading what a model asks for.

Matrix: pip's lines (names, extras, markers, hashes, urls, local files, options, nesting, continuation, comments) x
conda's and MLflow's YAML x errors with file and line. Left out: what only pip's resolver can say.
"""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.environments import files, requirements
from headrace.errors import SettingsError


def read(tmp_path: Path, text: str, name: str = "requirements.txt") -> requirements.Requirements:
    (tmp_path / name).write_text(text)
    return requirements.read(tmp_path / name)


def texts(found: requirements.Requirements) -> list[str]:
    return [each.text for each in found.packages]


def test_pip_lines(tmp_path):
    """Comments, blanks, continuations, extras and markers are read as pip reads them."""
    found = read(
        tmp_path,
        "# head\n\nnumpy>=1.26  # why\nrequests[socks] \\\n  ==2.31 ; python_version < '4'\nscipy\n",
    )
    assert texts(found) == ["numpy>=1.26", "requests[socks]   ==2.31 ; python_version < '4'", "scipy"]
    assert [each.name for each in found.packages] == ["numpy", "requests", "scipy"]
    assert found.origin == "hand"


def test_hashes(tmp_path):
    """Hashes belong to their package, on one line or several."""
    found = read(tmp_path, "numpy==1.26.0 --hash=sha256:aa --hash sha256:bb\nscipy==1.0 \\\n    --hash=sha256:cc\n")
    assert [each.hashes for each in found.packages] == [("sha256:aa", "sha256:bb"), ("sha256:cc",)]
    assert "numpy==1.26.0 --hash=sha256:aa --hash=sha256:bb" in requirements.render(found)[0]


def test_options(tmp_path):
    """Options are kept in order by their long names, relative folders made absolute, the last index the one."""
    found = read(
        tmp_path,
        "-i https://one/simple\n--index-url=https://two/simple\n--extra-index-url https://three\n-f wheels\n--no-index\n"
        "--pre\n--trusted-host three\nnumpy\n",
    )
    assert found.options == (
        ("--index-url", "https://two/simple"),
        ("--extra-index-url", "https://three"),
        ("--find-links", str(tmp_path / "wheels")),
        ("--no-index", ""),
        ("--pre", ""),
        ("--trusted-host", "three"),
    )
    assert "--pre" not in requirements.render(found)[0]


def test_nested(tmp_path):
    """A file included by -r or -c is read relative to the one that names it, and counts as read."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "base.txt").write_text("numpy\n-c limits.txt\n")
    (tmp_path / "deep" / "limits.txt").write_text("numpy<3\n")
    found = read(tmp_path, "-rdeep/base.txt\nscipy\n")
    assert texts(found) == ["numpy", "scipy"]
    assert [each.text for each in found.constraints] == ["numpy<3"]
    assert [Path(each).name for each in found.files] == ["requirements.txt", "base.txt", "limits.txt"]


def test_circle(tmp_path):
    """Files that include each other are an error with the line that closes the circle."""
    (tmp_path / "other.txt").write_text("-r requirements.txt\n")
    with pytest.raises(SettingsError, match=r"other\.txt:1: includes .*requirements\.txt, which includes it again"):
        read(tmp_path, "-r other.txt\n")


def test_places(tmp_path):
    """An archive by path or url is a package by the name in its file's name; local content is part of the digest."""
    wheel = tmp_path / "tiny_one-1.0-py3-none-any.whl"
    wheel.write_bytes(b"a")
    text = "./tiny_one-1.0-py3-none-any.whl\nhttps://host/other-2.0.tar.gz ; python_version > '3'\nlast @ https://host/x.zip\n"
    found = read(tmp_path, text)
    assert texts(found) == [
        f"tiny-one @ {wheel.as_uri()}",
        "other @ https://host/other-2.0.tar.gz ; python_version > '3'",
        "last @ https://host/x.zip",
    ]
    wheel.write_bytes(b"b")
    assert requirements.digest(read(tmp_path, text)) != requirements.digest(found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("numpy\n-e .\n", r"requirements\.txt:2: '-e \.': an editable install"),
        ("numpy >=> 1\n", r"requirements\.txt:1: 'numpy >=> 1' is not a requirement"),
        ("--index https://x\n", r"requirements\.txt:1: unknown option '--index'; known are"),
        ("--find-links\n", r"requirements\.txt:1: option '--find-links' wants a value"),
        ("\n-r nowhere.txt\n", r"nowhere\.txt: cannot be read .*requirements\.txt:2 names it"),
        ("-r https://u:secret@host/r.txt\n", r"'https://\*\*\*\*@host/r\.txt': a file from a url"),
        ("./nowhere-1.0-py3-none-any.whl\n", r"requirements\.txt:1: .* is not a file"),
        ("git+https://u:secret@host/repo\n", r"'git\+https://\*\*\*\*@host/repo' does not say which package"),
        (".\n", r"requirements\.txt:1: .* is a folder"),
        ("numpy --global-option=x\n", r"--global-option is not supported"),
    ],
)
def test_errors(tmp_path, text, said):
    """A line that cannot be followed is an error that names file and line, and no password."""
    with pytest.raises(SettingsError, match=said) as caught:
        read(tmp_path, text)
    assert "secret" not in str(caught.value)


def test_python_env(tmp_path):
    """MLflow's python_env.yaml brings its requirements, and a Python of 3.10 stays 3.10."""
    (tmp_path / "requirements.txt").write_text("numpy==1.26.0\n")
    text = "python: 3.10\nbuild_dependencies:\n- pip==23\n- setuptools==68\ndependencies:\n- -r requirements.txt\n- scipy\n"
    found = read(tmp_path, text, "python_env.yaml")
    assert found.python == "3.10"
    assert found.origin == "mlflow"
    assert texts(found) == ["numpy==1.26.0", "scipy"]
    assert [each.name for each in found.build_packages] == ["setuptools"]


def test_conda(tmp_path):
    """A conda file's python, pip section, channels and own packages come apart; python and pip are no packages."""
    found = read(
        tmp_path,
        "name: x\nchannels: [conda-forge]\ndependencies:\n- python=3.11.7\n- pip<=23\n- conda-forge::numpy=1.26=py311_0\n"
        "- scikit-learn >=1.3,<2\n- blas 1.0 mkl\n- pip:\n  - mlflow==2.9\n",
        "conda.yaml",
    )
    assert found.python == "3.11.7"
    assert texts(found) == ["mlflow==2.9"]
    assert found.channels == ("conda-forge",)
    assert [(each.name, each.specifier) for each in found.conda_packages] == [
        ("numpy", "==1.26.*"),
        ("scikit-learn", "<2,>=1.3"),
        ("blas", "==1.0"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("conda.yaml", "name: x\ndependancies: []\n", r"conda\.yaml: has no 'dependencies'; found dependancies, name"),
        ("conda.yaml", "dependencies:\n- a: [\n", r"conda\.yaml:\d+: is not YAML"),
        ("conda.yaml", "dependencies:\n- numpy\n- apt: [x]\n", r"conda\.yaml:3: unknown section 'apt'"),
        ("conda.yaml", "dependencies: numpy\n", r"conda\.yaml:1: 'dependencies': expected a list, got a text"),
        ("python_env.yaml", "python: new\n", r"python_env\.yaml:1: Python 'new': expected a version"),
        ("python_env.yaml", "- a\n", r"python_env\.yaml: expected keys and values, got a list"),
        ("python_env.yaml", "dependencies:\n- a\n- 'b >=> 1'\n", r"python_env\.yaml:3: 'b >=> 1' is not a requirement"),
    ],
)
def test_yaml_errors(tmp_path, name, text, said):
    """A YAML file that cannot be followed is an error that names file, line and what was expected."""
    with pytest.raises(SettingsError, match=said):
        read(tmp_path, text, name)


def test_precedence(tmp_path):
    """python_env.yaml counts before requirements.txt, which counts before a conda file."""
    assert files.find(tmp_path) is None
    for name in reversed(files.FILES):
        (tmp_path / name).touch()
        assert files.find(tmp_path) == tmp_path / name


def test_mlflow_origin(tmp_path):
    """A requirements.txt beside an MLmodel is MLflow's record, not a person's wish."""
    (tmp_path / "MLmodel").touch()
    assert read(tmp_path, "numpy\n").origin == "mlflow"


def test_digest_ignores_layout(tmp_path):
    """Comments, and whether a file is nested, make no difference to the digest; a version does."""
    (tmp_path / "base.txt").write_text("numpy==1.0\n")
    one, two = read(tmp_path, "# why\nnumpy==1.0\n"), read(tmp_path, "-r base.txt\n")
    assert requirements.digest(one) == requirements.digest(two)
    assert requirements.digest(one) != requirements.digest(read(tmp_path, "numpy==1.1\n"))


@pytest.mark.parametrize(
    ("python", "version", "accepted"),
    [
        (None, "3.11.7", True),
        ("3.11.2", "3.11.7", True),
        ("3", "3.12.0", True),
        ("3.1", "3.11.7", False),
        ("3.10", "3.11.7", False),
        (">=3.10,<3.12", "3.11.7", True),
        (">=3.12", "3.11.7", False),
    ],
)
def test_python_accepts(python, version, accepted):
    """A version asks for its minor, a range for what lies in it."""
    assert requirements.python_accepts(python, version) is accepted


_NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
_VERSIONS = st.from_regex(r"[0-9]{1,2}\.[0-9]{1,2}", fullmatch=True)


@settings(deadline=None)
@given(st.lists(st.tuples(_NAMES, _VERSIONS), min_size=1, max_size=6))
def test_render_reads_back(pairs):
    """What is rendered for an installer reads back as the same packages."""
    texts = {Path("/m/requirements.txt"): "\n".join(f"{name}=={version}" for name, version in pairs)}
    found = requirements.read(Path("/m/requirements.txt"), read_text=texts.__getitem__)
    texts[Path("/m/requirements.txt")] = requirements.render(found)[0]
    assert requirements.read(Path("/m/requirements.txt"), read_text=texts.__getitem__).packages == found.packages
