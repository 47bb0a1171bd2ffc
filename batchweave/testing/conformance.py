"""The suite as one class: what a catalog and its table format owe a stream's users."""

from __future__ import annotations

from batchweave.testing.publishing import PublishingConformance
from batchweave.testing.reading import ReadingConformance
from batchweave.testing.registration import RegistrationConformance


class CatalogConformance(RegistrationConformance, PublishingConformance, ReadingConformance):
    """Everything that holds of a stream, for a catalog and table format of your own.

    Subclass it in a test module under a name that pytest collects, and give the fixture
    ``properties``; see `batchweave.testing.suite.Conformance` for the rest. What is not overridden
    there skips a test, and says so.
    """
