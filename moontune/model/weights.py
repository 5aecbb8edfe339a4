"""Stored weights to parameters: straight to the device, one tensor at a time, every problem reported at once.

A parameter comes from a stored tensor of its name, in either form of names (`weight_names`), or from its int4 or 8-bit
form (`quantisation`), which is widened as it is read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from torch import Tensor, nn

from moontune.errors import FieldViolation, InvalidField
from moontune.model.quantisation import Int4, fits_int4, from_fp8, from_int4, int4_shapes
from moontune.model.weight_files import Stored, WeightFiles
from moontune.model.weight_names import is_transposed, own_name

_FLOATS = ("F32", "BF16", "F16")
_FP8 = "F8_E4M3"
Shapes = Mapping[str, tuple[int, ...]]


class Form(StrEnum):
    """How a parameter is stored."""

    PLAIN = "plain"
    TRANSPOSED = "transposed"
    UPPER_HALF = "upper half of rows"
    LOWER_HALF = "lower half of rows"
    INT4 = "int4"
    FP8 = "fp8"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A parameter's form, and the stored names that it takes, in the form's order."""

    form: Form
    names: tuple[str, ...]


def load_weights(module: nn.Module, folder: Path, device: str, dtypes: Mapping[str, torch.dtype]) -> None:
    """Replace every parameter of `module` (built on the meta device) by the stored one, on `device`.

    dtypes: what each parameter computes in. Raises InvalidField listing all missing, unknown and misshapen tensors
    and, after loading, all that are not finite; CheckpointCorrupt for a damaged file.
    """
    wanted = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    strange: list[tuple[str, str]] = []
    with WeightFiles(folder, device) as files:
        for name, recipe in plan(wanted, files.stored, folder).items():
            tensor = assemble(files, recipe, wanted[name]).to(dtypes[name]).contiguous()
            if not is_finite(tensor):
                strange.append((name, "has values that are not finite"))
            _assign(module, name, tensor)
    _refuse(folder, strange)


def plan(wanted: Shapes, stored: Mapping[str, Stored], folder: Path) -> dict[str, Recipe]:
    """Where each parameter comes from; InvalidField lists all that are missing, unknown, misshapen or of odd dtypes."""
    stored_by_own = {own_name(name): name for name in stored}
    recipes = {name: recipe for name in wanted if (recipe := _recipe(name, wanted[name], stored_by_own, stored))}
    used = {name for recipe in recipes.values() for name in recipe.names}
    problems = [(name, "is missing") for name in wanted if name not in recipes]
    problems += [(name, "is not a parameter of this architecture") for name in stored if name not in used]
    for name, recipe in recipes.items():
        problems += _misfits(name, recipe, stored, wanted[name])
    _refuse(folder, problems)
    return recipes


def assemble(files: WeightFiles, recipe: Recipe, shape: tuple[int, ...]) -> Tensor:
    """A parameter's value on the files' device, in the dtype it is stored in, fp32 where that has few bits."""
    first, *others = (files.read(name) for name in recipe.names)
    match recipe.form:
        case Form.PLAIN:
            return first
        case Form.TRANSPOSED:
            return first.T
        case Form.UPPER_HALF:
            return first[: shape[0]]
        case Form.LOWER_HALF:
            return first[shape[0] :]
        case Form.INT4:
            return from_int4(Int4(first, *others), shape)
        case Form.FP8:
            return from_fp8(first, others[0])


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite; unlike torch.isfinite it makes no tensor of the same size on the way."""
    low, high = tensor.aminmax()
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _recipe(
    name: str, shape: tuple[int, ...], stored_by_own: Mapping[str, str], stored: Mapping[str, Stored]
) -> Recipe | None:
    plain = stored_by_own.get(name)
    if plain is not None:
        scale = stored_by_own.get(f"{name.removesuffix('.weight')}.scale")
        if stored[plain].dtype == _FP8 and scale is not None:
            return Recipe(Form.FP8, (plain, scale))
        return Recipe(Form.TRANSPOSED if is_transposed(plain) else Form.PLAIN, (plain,))
    int4 = [stored_by_own.get(f"{name}.{part}") for part in ("packed", "scale", "zero_point")]
    if fits_int4(shape) and all(part is not None for part in int4):
        return Recipe(Form.INT4, tuple(part for part in int4 if part is not None))
    if name.endswith((".tau.wq", ".tau.wv")):
        both = stored_by_own.get(f"{name[:-2]}wqwv")
        if both is not None:
            return Recipe(Form.UPPER_HALF if name.endswith("wq") else Form.LOWER_HALF, (both,))
    return None


def _misfits(
    name: str, recipe: Recipe, stored: Mapping[str, Stored], shape: tuple[int, ...]
) -> Iterator[tuple[str, str]]:
    """What is wrong with the stored tensors of one parameter."""
    for part, (allowed, dtypes) in zip(recipe.names, _expected(recipe.form, shape), strict=True):
        has = stored[part]
        if has.shape != allowed:
            yield part, f"has shape {list(has.shape)}, the config needs {list(allowed)} for {name}"
        if has.dtype not in dtypes:
            yield part, f"is stored as {has.dtype}, allowed: {', '.join(dtypes)}"


def _expected(form: Form, shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[str, ...]]]:
    """Shape and dtypes of each stored tensor of a form."""
    match form:
        case Form.PLAIN:
            yield shape, _FLOATS
        case Form.TRANSPOSED:
            yield shape[::-1], _FLOATS
        case Form.UPPER_HALF | Form.LOWER_HALF:
            yield (2 * shape[0], *shape[1:]), _FLOATS
        case Form.FP8:
            yield shape, (_FP8,)
            yield shape[:-1], _FLOATS
        case Form.INT4:
            packed, per_group = int4_shapes((shape[0], shape[1]))
            yield packed, ("U8",)
            yield per_group, _FLOATS
            yield per_group, _FLOATS


def _refuse(folder: Path, problems: list[tuple[str, str]]) -> None:
    if problems:
        violations = [FieldViolation(f"base.weights.{name}", f"{name} {what}") for name, what in problems]
        listed = "; ".join(violation.description for violation in violations)
        raise InvalidField(f"the weights in {folder} do not fit the config: {listed}", violations=violations)


def _assign(module: nn.Module, name: str, tensor: Tensor) -> None:
    owner_name, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner_name), leaf, nn.Parameter(tensor, requires_grad=False))
