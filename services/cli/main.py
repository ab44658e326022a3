"""The `rigserve` command. Each subcommand is one file; this one only lists them and turns our own errors into sentences."""

from __future__ import annotations

import click

from services.cli.advise import advise_command as advise
from services.cli.detect import detect
from services.cli.errors import KNOWN_ERRORS
from services.cli.fetch import fetch
from services.cli.fit import fit
from services.cli.gateway import gateway
from services.cli.models import models
from services.cli.plan import plan
from services.cli.probe import probe
from services.cli.serve import serve
from services.cli.status import status


class Rigserve(click.Group):
    """A group whose commands end in a sentence, never in a traceback, for every error that rigserve itself raises."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KNOWN_ERRORS as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Rigserve, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="rigserve", prog_name="rigserve")
def main() -> None:
    """Turn retired mining rigs into an inference service: what fits each card, served behind one OpenAI-compatible gateway."""


for command in (detect, probe, models, fit, plan, advise, fetch, serve, status, gateway):
    main.add_command(command)

if __name__ == "__main__":
    main()
