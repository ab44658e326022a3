"""The `rigserve` command. Each subcommand is one file; this one only lists them and turns our own errors into sentences."""

from __future__ import annotations

from importlib import import_module

import click

# Loaded when asked for: a health check runs every few seconds and must not import the planner; an image holds what its command needs.
COMMANDS = {
    name: f"services.cli.{name}:{name}"
    for name in ("detect", "doctor", "probe", "models", "fit", "plan", "fetch", "serve", "status", "gateway", "worker", "health", "keys",
                 "compose", "up", "upgrade", "calibrate", "power", "top")
} | {
    "advise": "services.cli.advise:advise_command",
    "down": "services.cli.up:down", "ps": "services.cli.running:ps", "logs": "services.cli.running:logs",
}


class Rigserve(click.Group):
    """A group whose commands end in a sentence, never in a traceback, for every error that rigserve itself raises."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*COMMANDS, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        try:
            command = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("services"):
                raise
            return _left_out(cmd_name, error.name or "a package")
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # the process's border: to name our errors before one came would import every room; others go on
            from services.cli.errors import INPUT_ERRORS, KNOWN_ERRORS, InputError

            if isinstance(error, INPUT_ERRORS):
                raise InputError(str(error)) from error
            if isinstance(error, KNOWN_ERRORS):
                raise click.ClickException(str(error)) from error
            raise


def _left_out(name: str, package: str) -> click.Command:
    """Stands for a command whose packages an image was made without."""

    def say(arguments: tuple[str, ...]) -> None:
        raise click.ClickException(f"`rigserve {name}` is not part of this installation: {package} is missing; run `make install`")

    anything = click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)
    return click.Command(name, callback=say, params=[anything], help="Not part of this installation.",
                         context_settings={"ignore_unknown_options": True})


@click.group(cls=Rigserve, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="rigserve", prog_name="rigserve")
def main() -> None:
    """Turn retired mining rigs into an inference service: what fits each card, served behind one OpenAI-compatible gateway."""


if __name__ == "__main__":
    main()
