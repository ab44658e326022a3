"""The errors of other rooms that a command may end with: their text is already the sentence for the user.

Exit codes of every command: 0 done (for `fit`: it fits), 1 the answer is no or something failed, 2 what was typed can't be understood.
"""

from __future__ import annotations

import click

from services.provision.errors import ProvisionError
from services.sizing.cards import CardParseError
from services.sizing.catalogue import CatalogueError, UnknownModelError
from services.sizing.checkpoint import CheckpointError
from services.sizing.economics import TariffError
from services.sizing.fit import WorkloadError
from services.sizing.planfile import PlanFileError

INPUT_ERRORS = (CardParseError, UnknownModelError, CheckpointError, TariffError, WorkloadError)
KNOWN_ERRORS = (*INPUT_ERRORS, ProvisionError, CatalogueError, PlanFileError)


class InputError(click.ClickException):
    """What was typed names nothing that exists, or can't be meant."""

    exit_code = 2
