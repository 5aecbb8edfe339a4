"""One line of the report."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """What was compared, whether it agrees, and the figure or the two values."""

    name: str
    agrees: bool
    detail: str

    def __str__(self) -> str:
        return f"{'ok      ' if self.agrees else 'MISMATCH'}  {self.name:<24} {self.detail}"
