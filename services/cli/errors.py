"""The errors of other rooms that a command may end with: their text is already the sentence for the user."""

from __future__ import annotations

from services.provision.errors import ProvisionError
from services.sizing.cards import CardParseError
from services.sizing.catalogue import CatalogueError, UnknownModelError
from services.sizing.economics import TariffError
from services.sizing.fit import WorkloadError
from services.sizing.planfile import PlanFileError

KNOWN_ERRORS = (ProvisionError, CardParseError, CatalogueError, UnknownModelError, PlanFileError, TariffError, WorkloadError)
