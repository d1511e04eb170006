"""`headrace completions`."""

from __future__ import annotations

import click

_HOW = {
    "bash": 'eval "$(headrace completions bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(headrace completions zsh)"    # in ~/.zshrc',
    "fish": "headrace completions fish > ~/.config/fish/completions/headrace.fish",
}


@click.command(short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(list(_HOW)))
def command(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      eval "$(headrace completions bash)"   # in ~/.bashrc
      eval "$(headrace completions zsh)"    # in ~/.zshrc
      headrace completions fish > ~/.config/fish/completions/headrace.fish
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from click.shell_completion import get_completion_class

    from headrace.cli.group import headrace

    kind = get_completion_class(shell)
    if kind is None:
        raise click.ClickException(f"the installed click has no completion for {shell}")
    click.echo(f"# {_HOW[shell]}")
    # Not kind.source(): for bash that starts a bash to learn its version.
    complete = kind(headrace, {}, "headrace", "_HEADRACE_COMPLETE")
    click.echo(complete.source_template % complete.source_vars())
