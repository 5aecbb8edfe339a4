"""How much one grade of user code may take."""

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Limits of one sample; memory is of the process that grades a batch, on top of the interpreter's own.

    sample_bytes: largest sample as JSON. result_bytes: largest result as JSON. hello_s: longest start of a jail.
    """

    cpu_s: float = 2.0
    wall_s: float = 5.0
    memory_bytes: int = 512 * MIB
    sample_bytes: int = 4 * MIB
    result_bytes: int = 64 * 1024
    hello_s: float = 20.0
