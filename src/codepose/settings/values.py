"""What every setting is made of: numbers with bounds, ranges, and frozen groups of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MUCH = 1_000_000_000
"""No setting is larger: what comes near it is a slip of the hand, and would overflow somewhere else."""
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(ge=1e-9, le=MUCH)]
NonNegative = Annotated[float, Field(ge=0.0, le=MUCH)]
Count = Annotated[int, Field(gt=0, le=MUCH)]
Whole = Annotated[int, Field(ge=0, le=MUCH)]
Size = Annotated[int, Field(gt=0, le=65_536)]
"""One dimension of a tensor."""
Few = Annotated[int, Field(ge=0, le=1000)]
"""Things in an image, and what is done for each of them."""


def ascending(pair: tuple[float, float]) -> tuple[float, float]:
    """Refuses a range whose low end is above its high end."""
    if not pair[0] <= pair[1]:
        raise ValueError(f"a range must go from low to high, not from {pair[0]} to {pair[1]}")
    return pair


Range = Annotated[tuple[NonNegative, NonNegative], AfterValidator(ascending)]


class Frozen(BaseModel):
    """Settings that cannot be changed; unknown keys raise."""

    model_config = ConfigDict(frozen=True, extra="forbid")
