"""What `vpctl soak -f json` writes, and its JSON Schema."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Shape(BaseModel):
    """A mapping of the report; later versions may add keys, as the contract allows them."""

    model_config = ConfigDict(frozen=True, extra="ignore", json_schema_serialization_defaults_required=True)


class Outage(Shape):
    """Over all links and recoveries, by nearest rank; null where there was none."""

    p50: float | None = Field(ge=0)
    p90: float | None = Field(ge=0)
    p99: float | None = Field(ge=0)
    max: float | None = Field(ge=0)


class Round(Shape):
    """One round: depends on seed, number and topology only."""

    round: int = Field(ge=1, description="its number, for `--first`")
    strikes: list[str] = Field(
        min_length=1,
        max_length=2,
        description="what was done: a blow and whom it hit, `kill vm1`; a second one follows",
    )
    ok: bool = Field(description="everything came up again, every fault was named, and no other one")
    seconds: float = Field(ge=0)
    outages_ms: list[float] = Field(description="of each link that was recovered, from the fault to verified packets")


class SoakReport(Shape):
    """A whole soak."""

    schema_version: Literal[1] = 1
    ok: bool = Field(description="false: exit code 6")
    seed: int
    recoveries: int = Field(ge=0, description="those that succeeded")
    unrecovered: list[str] = Field(description="what did not come up again; the soak ends there")
    false_alarms: list[str] = Field(description="faults that nobody caused, and blows that nobody noticed")
    leaks: list[str] = Field(description="what has grown from the first round to the last")
    outage_ms: Outage
    rounds: list[Round]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return self.model_dump(mode="json")


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema of a report."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **SoakReport.model_json_schema(mode="serialization"),
        "title": "vpctl soak",
    }
