"""Commands that other packages add to a command line by entry points."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from typer.core import TyperGroup
from typer.main import get_command

from rsicrc.errors import RsicrcError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_COMPLETION = ("install_completion", "show_completion")  # options of a whole program, not of a command in it


def plugin_group(group: str, extras: dict[str, str]) -> type[TyperGroup]:
    """Return a command group that also holds the commands of an entry point group.

    An entry point is named like its command and refers to a `typer.Typer`. Entry points are searched only for the help
    and for commands that the program itself lacks.

    Args:
        group: Name of the entry point group, for example "rsicrc.commands".
        extras: Extra of rsicrc by the name of a command, for an error message if the command is not installed.
    """

    class PluginGroup(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return [*super().list_commands(ctx), *sorted(set(self._entry_points) - set(self.commands))]

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            own = super().get_command(ctx, cmd_name)
            if own is not None:
                return own
            if cmd_name in self._entry_points:
                return _load(self._entry_points[cmd_name])
            if cmd_name in extras:
                raise RsicrcError(
                    f"the command {cmd_name!r} is not installed: pip install 'rsicrc[{extras[cmd_name]}]'"
                )
            return None

        @cached_property
        def _entry_points(self) -> dict[str, EntryPoint]:
            from importlib.metadata import entry_points

            return {entry_point.name: entry_point for entry_point in entry_points(group=group)}

    return PluginGroup


def _load(entry_point: EntryPoint) -> Any:
    command = get_command(entry_point.load())
    command.params = [parameter for parameter in command.params if parameter.name not in _COMPLETION]
    return command
