"""The command itself: its list, its errors and exit codes, and what it does not import."""

import json
import resource
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from headrace import __version__, errors
from headrace.cli import group, reference
from headrace.cli.group import COMMANDS, headrace
from headrace.client import Unreachable


def run(*args, **rest):
    return CliRunner().invoke(headrace, args, **rest)


@pytest.mark.parametrize("name", COMMANDS)
def test_summaries_are_the_commands_own(name):
    """The summary in the list, the command's short help and the first line of its own help are one sentence."""
    command = headrace.get_command(click.Context(headrace), name)
    assert command.short_help == COMMANDS[name]
    assert command.help.splitlines()[0] == COMMANDS[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_help_has_an_example(name):
    """Each command's help shows at least one example of itself, and says what every option is for."""
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"headrace {name}" in result.output.partition("Examples:")[2]
    for option in headrace.get_command(click.Context(headrace), name).params:
        assert isinstance(option, click.Argument) or option.help, option


def test_help_lists_commands_and_exit_codes():
    """The help lists every command and every exit code."""
    result = run("--help")
    assert all(f"{name} " in result.output and text in result.output for name, text in COMMANDS.items())
    assert all(text in result.output for text in group.EXIT_CODES.values())


def test_version():
    """--version names the version."""
    assert run("--version").output == f"headrace {__version__}\n"


def test_unknown_command():
    """An unknown command is one line that names the nearest one, and exit code 2."""
    result = run("srve")
    assert result.exit_code == 2
    assert result.stderr == "error: no such command 'srve'; did you mean 'serve'?; see `headrace --help`\n"


def test_unknown_option():
    """An unknown option is one line that says where the help is, and exit code 2."""
    result = run("models", "--jsn")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: No such option")
    assert "see `headrace models --help`" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.SettingsError("x"), 2),
        (Unreachable("x"), 3),
        (errors.ModelNotReady("x"), 4),
        (errors.ModelNotFound("x"), 4),
        (errors.UnknownFormat("x"), 4),
        (errors.Overloaded("x"), 5),
        (errors.DeadlineExceeded("x"), 5),
        (errors.InvalidRequest("x"), 1),
        (errors.InvalidResources(["x"]), 6),
        (errors.Conflict("x"), 6),
        (errors.NotFound("x"), 1),
        (errors.RuntimeFailed("x"), 1),
    ],
)
def test_exit_codes(error, code):
    """Each kind of error has its exit code, and the code is in the documented table."""
    assert group.exit_code(error) == code
    assert code in group.EXIT_CODES


@pytest.mark.parametrize(
    "args",
    [["models"], ["load", "m"], ["unload", "m"], ["predict", "m", "--input", "x=[1]"]],
    ids=lambda args: args[0],
)
def test_no_server(args, unused_url):
    """Every command that asks a server says so in one line, and ends with 3, when there is none."""
    result = run(*args, "--url", unused_url)
    assert result.exit_code == 3
    assert (
        result.stderr
        == f"error: cannot reach a server at {unused_url}: [Errno 111] Connection refused; is it running?\n"
    )


def test_header_without_a_colon():
    """A --header without a colon is a usage error."""
    result = run("models", "--header", "Authorization")
    assert result.exit_code == 2
    assert "NAME:VALUE" in result.stderr


HEAVY = {"numpy", "uvloop", "rich", "yaml", "msgspec", "grpc", "asyncio", "sklearn", "onnxruntime", "http.client"}


def test_help_imports_little():
    """`headrace --help` imports no array library, no server, no table library."""
    program = "import sys; sys.argv = ['headrace', '--help']\nfrom headrace.cli import main\n"
    program += "try:\n    main()\nexcept SystemExit:\n    print('\\n' + ' '.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not HEAVY & set(result.stdout.splitlines()[-1].split())


def test_help_is_quick():
    """`headrace --help` takes less than 150 ms of a core more than Python itself, in the best of some tries."""

    def seconds(*args):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *args], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)  # of processors: a busy machine is not a slow command
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    bare = help_ = float("inf")
    for _ in range(10):
        bare = min(bare, seconds("-c", "pass"))
        help_ = min(help_, seconds("-m", "headrace", "--help"))
        if help_ - bare < 0.15:
            break
    assert help_ - bare < 0.15


def test_module_and_command_are_one():
    """`python -m headrace` is the command."""
    result = subprocess.run([sys.executable, "-m", "headrace", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"headrace {__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions(shell):
    """The completion script of a shell names the command and the variable that asks it."""
    result = run("completions", shell)
    assert result.exit_code == 0
    assert f"_HEADRACE_COMPLETE={shell}_complete" in result.output


def test_completion_answers():
    """What the script asks for is answered: the commands that begin as typed."""
    environ = {"_HEADRACE_COMPLETE": "bash_complete", "COMP_WORDS": "headrace s", "COMP_CWORD": "1"}
    result = CliRunner().invoke(headrace, [], env=environ)
    assert sorted(result.output.split()) == ["plain,schema", "plain,serve", "plain,settings"]


def test_reference_has_everything():
    """The reference has a section for each command and a row for each option."""
    text = reference.reference()
    for name in COMMANDS:
        section = text.partition(f"## headrace {name}\n")[2].partition("\n## ")[0]
        for param in headrace.get_command(click.Context(headrace), name).params:
            if isinstance(param, click.Option):
                assert f"`{param.opts[0]}`" in section
        assert "```sh\n" in section
        assert "\x08" not in section


def test_settings_show_their_origin(tmp_path):
    """`headrace settings` shows value and origin of what file and environment say; --json is for programs."""
    file = tmp_path / "server.yaml"
    file.write_text("http: {port: 9000}")
    environ = {"HEADRACE_GRPC_PORT": "9001"}
    result = run("settings", "--config", str(file), "--changed", env=environ)
    assert result.exit_code == 0
    lines = [line.split(maxsplit=2) for line in result.output.splitlines()]
    assert lines[1:] == [
        ["http.port", "9000", f"file {file}"],
        ["grpc.port", "9001", "environment HEADRACE_GRPC_PORT"],
    ]
    rows = json.loads(run("settings", "--json", env=environ).output)
    assert {"key": "grpc.port", "value": 9001, "origin": "environment HEADRACE_GRPC_PORT"} in rows
    assert {"key": "http.port", "value": 8080, "origin": "default"} in rows


def test_settings_that_are_wrong(tmp_path):
    """A wrong settings file is one line that names it, and exit code 2."""
    file = tmp_path / "server.yaml"
    file.write_text("htp: {port: 9000}")
    result = run("settings", "--config", str(file))
    assert result.exit_code == 2
    assert result.stderr == f"error: {file}: unknown key 'htp'; did you mean 'http'?\n"
    assert run("settings", "--config", str(tmp_path / "none.yaml")).exit_code == 2


def test_settings_reference():
    """`headrace settings --reference` prints the settings reference."""
    assert "### http.port" in run("settings", "--reference").output


def test_a_group_alone_shows_its_help():
    """A group without a subcommand prints its help as it is, line by line, and ends as wrong usage does."""
    result = CliRunner().invoke(headrace, ["trust"])
    assert result.exit_code == 2
    assert "\n  scan-data" in result.output
    assert "error:" not in result.output
