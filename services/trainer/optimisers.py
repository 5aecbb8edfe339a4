"""The optimisers that a step may name, and the tensors that each keeps between steps."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torch.optim import SGD, Adafactor, AdamW, Optimizer

from moontune.values.training import OptimiserKind, TrainSettings

KEPT = {
    OptimiserKind.ADAMW: ("exp_avg", "exp_avg_sq", "step"),
    OptimiserKind.SGD: ("momentum_buffer",),
    OptimiserKind.ADAFACTOR: ("row_var", "col_var", "variance", "step"),
}
"""Names of an optimiser's state. Adafactor's `variance` is of vectors, `row_var` and `col_var` of matrices."""


def new_optimiser(kind: OptimiserKind, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """One without state. foreach is off: one order of additions on every machine, so that a resume is bit-exact."""
    match kind:
        case OptimiserKind.ADAMW:
            return AdamW(list(parameters), lr=0.0, foreach=False)
        case OptimiserKind.SGD:
            return SGD(list(parameters), lr=0.0, foreach=False)
        case OptimiserKind.ADAFACTOR:
            return Adafactor(list(parameters), lr=0.0, foreach=False)


def configure(optimiser: Optimizer, settings: TrainSettings) -> None:
    """Give it a step's parameters, those that it reads."""
    given: dict[str, object] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimiser is OptimiserKind.ADAMW:
        given |= {"betas": (settings.beta1, settings.beta2), "eps": settings.epsilon}
    elif settings.optimiser is OptimiserKind.SGD:
        given |= {"momentum": settings.beta1}
    for group in optimiser.param_groups:
        group.update(given)


def kept_state(optimiser: Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state as `<name>.<parameter name>`; empty before the first step."""
    return {
        f"{key}.{name}": value
        for name, parameter in parameters.items()
        for key, value in optimiser.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def kind_of(stored: Iterable[str]) -> OptimiserKind:
    """Whose state this is, by its names; AdamW where there is none."""
    found = {name.partition(".")[0] for name in stored}
    return next((kind for kind, names in KEPT.items() if found and found <= set(names)), OptimiserKind.ADAMW)


def expected_state(kind: OptimiserKind, parameter: Tensor) -> tuple[str, ...]:
    """Names of what the optimiser keeps of a parameter once it had a gradient."""
    left_out = ()
    if kind is OptimiserKind.ADAFACTOR:
        left_out = ("variance",) if parameter.dim() > 1 else ("row_var", "col_var")
    return tuple(name for name in KEPT[kind] if name not in left_out)


def put_state(optimiser: Optimizer, parameter: Tensor, state: Mapping[str, Tensor]) -> None:
    """Give a parameter's state back. Step counts live on the CPU, the rest beside the parameter."""
    optimiser.state[parameter] = {
        name: tensor.clone() if name == "step" else tensor.to(parameter.device, copy=True)
        for name, tensor in state.items()
    }
