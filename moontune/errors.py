"""Every error a moontune service can answer, in one tree.

    MoontuneError
    ├── InvalidField            INVALID_ARGUMENT     a field's value is outside what is allowed
    │   ├── ImageInvalid        INVALID_ARGUMENT     bytes that are not a jpeg, png or webp image
    │   └── ImageTooLarge       INVALID_ARGUMENT     more bytes or pixels than the limit
    ├── NotFound                NOT_FOUND
    │   ├── FinetuneNotFound · StepNotFound · CheckpointNotFound · ModelNotFound
    │   └── JobNotFound · DatasetNotFound · RewardNotFound
    ├── FinetuneExists          ALREADY_EXISTS       the name is taken by a finetune with other settings
    ├── RequestIdReused         ALREADY_EXISTS       the request id came with another payload before
    ├── StepMismatch            FAILED_PRECONDITION  expected_step is not the finetune's step
    ├── WrongBase               FAILED_PRECONDITION  this process serves another base model
    ├── ImageUnknown            FAILED_PRECONDITION  send the image's bytes once, then its digest
    ├── NonFiniteStep           FAILED_PRECONDITION  loss or gradient is not finite; the step was not applied
    ├── InvalidState            FAILED_PRECONDITION  the resource is in a state that forbids the call
    ├── Unauthenticated         UNAUTHENTICATED
    ├── PermissionDenied        PERMISSION_DENIED
    ├── ResourceExhausted       RESOURCE_EXHAUSTED   retry after `retry_after_s`
    ├── Unavailable             UNAVAILABLE          retry
    │   ├── WorkerDied          UNAVAILABLE          the model worker died; nothing was applied
    │   └── Draining            UNAVAILABLE          the service is stopping
    ├── DeadlineExceeded        DEADLINE_EXCEEDED
    ├── Cancelled               CANCELLED
    ├── CheckpointCorrupt       DATA_LOSS            a stored file does not match its manifest
    ├── NotImplementedYet       UNIMPLEMENTED        the contract has it, this build does not
    └── Internal                INTERNAL             a bug of ours; the id leads to the log entry

To add one: subclass here with `code`, `reason` and `retryable`, then list it above. `tests/contract` sends every
class through a real channel. This module imports nothing of grpc: `Code` has the names of `grpc.StatusCode`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

DOMAIN = "moontune"
"""`ErrorInfo.domain` of every error that we raise."""


class Code(StrEnum):
    """The canonical gRPC codes in use; each value is the name of a `grpc.StatusCode` member."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    UNAVAILABLE = "UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CANCELLED = "CANCELLED"
    DATA_LOSS = "DATA_LOSS"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field: its path in the request, and a sentence with the value given and the values allowed."""

    field: str
    description: str


class MoontuneError(Exception):
    """Root of the tree. A subclass declares its gRPC code, a stable reason, and whether trying again can help."""

    code: ClassVar[Code] = Code.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after_s: float | None = None,
    ) -> None:
        """Build an error.

        Args:
            message: what was given, what is allowed, what to do; shown to the user as it is.
            metadata: machine-readable facts, sent as `ErrorInfo.metadata`.
            violations: the bad fields, sent as `BadRequest`.
            retry_after_s: seconds to wait before trying again, sent as `RetryInfo`.
        """
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by fields: errors cross the pipe between a service and its model worker."""
        return _rebuild, (type(self), self.message, self.metadata, self.violations, self.retry_after_s)


def _rebuild(
    kind: type[MoontuneError],
    message: str,
    metadata: Mapping[str, str],
    violations: Sequence[FieldViolation],
    retry_after_s: float | None,
) -> MoontuneError:
    return kind(message, metadata=metadata, violations=violations, retry_after_s=retry_after_s)


class InvalidField(MoontuneError):
    """A field's value is outside what is allowed."""

    code, reason = Code.INVALID_ARGUMENT, "INVALID_FIELD"

    @classmethod
    def of(cls, field: str, given: object, allowed: str) -> "InvalidField":
        """The usual form: the field's path, the value given (shortened to 80 characters), the values allowed."""
        shown = repr(given)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        description = f"{field} is {shown}; allowed: {allowed}"
        return cls(description, metadata={"field": field}, violations=[FieldViolation(field, description)])


class ImageInvalid(InvalidField):
    """Bytes that do not decode as a jpeg, png or webp image."""

    reason = "IMAGE_INVALID"


class ImageTooLarge(InvalidField):
    """An image of more encoded bytes or decoded pixels than the limit; refused before decoding."""

    reason = "IMAGE_TOO_LARGE"


class NotFound(MoontuneError):
    """The named resource does not exist, or belongs to another organisation."""

    code, reason = Code.NOT_FOUND, "NOT_FOUND"


class FinetuneNotFound(NotFound):
    """No such finetune in the caller's organisation."""

    reason = "FINETUNE_NOT_FOUND"


class StepNotFound(NotFound):
    """The finetune never had this step, or the unsaved step has expired."""

    reason = "STEP_NOT_FOUND"


class CheckpointNotFound(NotFound):
    """No saved checkpoint of this finetune at this step."""

    reason = "CHECKPOINT_NOT_FOUND"


class ModelNotFound(NotFound):
    """The model string names a base or a checkpoint that is not here."""

    reason = "MODEL_NOT_FOUND"


class JobNotFound(NotFound):
    """No such job in the caller's organisation."""

    reason = "JOB_NOT_FOUND"


class DatasetNotFound(NotFound):
    """No such dataset in the caller's organisation, or no such path."""

    reason = "DATASET_NOT_FOUND"


class RewardNotFound(NotFound):
    """No reward of this name."""

    reason = "REWARD_NOT_FOUND"


class FinetuneExists(MoontuneError):
    """The name is taken by a finetune with other settings."""

    code, reason = Code.ALREADY_EXISTS, "FINETUNE_EXISTS"


class RequestIdReused(MoontuneError):
    """The request id came before with another payload; take a new id."""

    code, reason = Code.ALREADY_EXISTS, "REQUEST_ID_REUSED"


class StepMismatch(MoontuneError):
    """`expected_step` is not the finetune's step: another caller trained it, or this one is behind."""

    code, reason = Code.FAILED_PRECONDITION, "STEP_MISMATCH"


class WrongBase(MoontuneError):
    """This process serves another base model than the finetune was created on."""

    code, reason = Code.FAILED_PRECONDITION, "WRONG_BASE"


class ImageUnknown(MoontuneError):
    """The request names an image by digest that this process does not hold; send its bytes once."""

    code, reason = Code.FAILED_PRECONDITION, "IMAGE_UNKNOWN"


class NonFiniteStep(MoontuneError):
    """Loss or gradient of a step is not finite; the step was not applied."""

    code, reason = Code.FAILED_PRECONDITION, "NON_FINITE_STEP"


class InvalidState(MoontuneError):
    """The resource is in a state that forbids the call (pausing a job that has ended, say)."""

    code, reason = Code.FAILED_PRECONDITION, "INVALID_STATE"


class SandboxMissing(MoontuneError):
    """User code may not run here: a layer of the sandbox is missing; the message and `layers` say which."""

    code, reason = Code.FAILED_PRECONDITION, "SANDBOX_MISSING"


class Unauthenticated(MoontuneError):
    """No key, or one that is not known."""

    code, reason = Code.UNAUTHENTICATED, "UNAUTHENTICATED"


class PermissionDenied(MoontuneError):
    """The key lacks the scope that the call needs."""

    code, reason = Code.PERMISSION_DENIED, "PERMISSION_DENIED"


class ResourceExhausted(MoontuneError):
    """A limit is reached for now (queue, memory, quota); the message has the figure."""

    code, reason, retryable = Code.RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED", True


class Unavailable(MoontuneError):
    """The service or one it needs cannot answer now."""

    code, reason, retryable = Code.UNAVAILABLE, "UNAVAILABLE", True


class WorkerDied(Unavailable):
    """The model worker died during the call; it is being started again and nothing was applied."""

    reason = "WORKER_DIED"


class Draining(Unavailable):
    """The service is stopping and takes no new calls."""

    reason = "DRAINING"


class DeadlineExceeded(MoontuneError):
    """The caller's deadline passed first."""

    code, reason = Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"


class Cancelled(MoontuneError):
    """The caller left."""

    code, reason = Code.CANCELLED, "CANCELLED"


class CheckpointCorrupt(MoontuneError):
    """A stored file does not match its manifest; the message names the file."""

    code, reason = Code.DATA_LOSS, "CHECKPOINT_CORRUPT"


class NotImplementedYet(MoontuneError):
    """The contract has this call, this build does not answer it; never a wrong answer instead."""

    code, reason = Code.UNIMPLEMENTED, "NOT_IMPLEMENTED_YET"


class Internal(MoontuneError):
    """A bug of ours. The message holds an opaque id; the trace is in the log under that id, never on the wire."""

    code, reason = Code.INTERNAL, "INTERNAL"


def all_errors() -> list[type[MoontuneError]]:
    """Every class of the tree below the root, in a stable order."""
    found: list[type[MoontuneError]] = []
    queue: list[type[MoontuneError]] = [MoontuneError]
    while queue:
        children = queue.pop(0).__subclasses__()
        found.extend(children)
        queue.extend(children)
    return found


def error_class(reason: str, code: str) -> type[MoontuneError]:
    """The class that a service raised, from what came over the wire.

    An unknown reason (a newer server, a proxy) becomes the class that says least beside the code, or `Internal`.
    """
    for kind in all_errors():
        if kind.reason == reason:
            return kind
    return next((kind for kind in (InvalidState, *all_errors()) if kind.code == code), Internal)
