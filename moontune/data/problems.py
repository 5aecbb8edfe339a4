"""Every fault of a data set, gathered and reported in one error."""

from dataclasses import dataclass, field

from moontune.errors import FieldViolation, InvalidField

MOST_LISTED = 50


@dataclass(slots=True)
class Problems:
    """Faults found so far in one file; `raise_if_any` ends the reading."""

    file: str
    listed: list[FieldViolation] = field(default_factory=list[FieldViolation])
    count: int = 0

    def add(self, where: str, what: str) -> None:
        """Note one fault: `where` in the file (a line, an annotation), and what is given and allowed."""
        self.count += 1
        if self.count <= MOST_LISTED:
            self.listed.append(FieldViolation(where, what))

    def raise_if_any(self) -> None:
        """Raise one InvalidField with every fault (the first 50 in words, all of them counted)."""
        if not self.count:
            return
        lines = "".join(f"\n  {violation.field}: {violation.description}" for violation in self.listed)
        more = f"\n  and {self.count - MOST_LISTED} more" if self.count > MOST_LISTED else ""
        noun = "problem" if self.count == 1 else "problems"
        message = f"{self.file} has {self.count} {noun}:{lines}{more}"
        raise InvalidField(message, metadata={"field": self.file}, violations=self.listed)
