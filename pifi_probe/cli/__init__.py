"""The command line: each command reads its options, calls what does the work, and prints what comes back."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from pifi_probe import __version__
from pifi_probe.errors import PifiProbeError

__all__ = ["app", "main"]


class _Interrupted(Exception):
    """Carries a Ctrl-C out of typer, which would turn it into a bare exit code."""


class _Group(TyperGroup):
    """The commands, with a Ctrl-C that can still be told of."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise _Interrupted from interrupt


app = typer.Typer(
    cls=_Group,
    help="Plug one frozen layer of a large language model into a small one, and find out which layer helps.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def version(
    show: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
    own: list[str] = typer.Option(
        [],
        "--import",
        help="A Python file or module of yours that registers a kind of "
        "task, a head, a strategy, ...; its code is run. May be repeated.",
    ),
) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit
    from pifi_probe.importing import IMPORT, import_own

    if own:
        os.environ[IMPORT] = os.pathsep.join(own)
    import_own()


def main(args: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    args : list of str, optional
        The arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        0 when all went well, 1 when a check failed, 2 for a bad input or option, 130 when interrupted.
    """
    _speak_utf8()
    return _guarded(lambda: _command()(args=args, prog_name="pifi-probe", standalone_mode=False))


def _guarded(call: Callable[[], Any]) -> int:
    """Turn every foreseen error into one line and an exit code."""
    from typer.exceptions import Abort, Exit, TyperException

    try:
        code = call()
    except PifiProbeError as error:
        _say(error)
        return 2
    except TyperException as error:
        error.show()  # type: ignore[attr-defined]  # every usage error has it
        return 2
    except (KeyboardInterrupt, Abort, _Interrupted) as error:
        if isinstance(error.__cause__, PifiProbeError):  # a run that says where its checkpoint is
            _say(error.__cause__)
        else:
            typer.echo("interrupted; what was finished is on disk: run the same command again to continue", err=True)
        return 130
    except Exit as leave:
        return leave.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        _say(
            PifiProbeError(
                f"the system refused to read or write: {error.strerror or error}",
                where=str(error.filename or "the command's output"),
                next="free some space, or check the path and its permissions",
            )
        )
        return 2
    return int(code) if isinstance(code, int) else 0


def _say(error: PifiProbeError) -> None:
    """Print an error as the one line it is."""
    typer.secho(f"error: {error}", err=True, fg="red" if sys.stderr.isatty() else None)


def _speak_utf8() -> None:
    """Print any text anywhere: a terminal that cannot show a character shows a question mark."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


@functools.cache
def _command() -> Any:
    """Return the command with all others attached, once; each module imports heavy libraries only inside its own."""
    from pifi_probe.cli import (
        assets,
        bench,
        cache,
        control,
        decide,
        demo,
        deploy,
        doctor,
        headroom,
        layers,
        probe,
        reproduce,
        runs,
        search,
        states,
        study,
        verify,
    )

    for module in (
        assets,
        bench,
        cache,
        control,
        demo,
        deploy,
        doctor,
        headroom,
        layers,
        probe,
        decide,
        reproduce,
        runs,
        search,
        states,
        study,
        verify,
    ):
        module.register(app)
    return typer.main.get_command(app)
