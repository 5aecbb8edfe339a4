"""Where bases lie on this machine: in the package, in the folder of pulled ones, or anywhere by path. Torch-free."""

from pathlib import Path

from platformdirs import user_data_path
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from moontune.errors import ModelNotFound

BASES = Path(__file__).parent / "bases"
"""Bases that are part of the package."""

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"


class ModelSettings(BaseSettings):
    """Where pulled bases are kept, and how bases run."""

    model_config = SettingsConfigDict(env_prefix="MOONTUNE_")

    models_dir: Path = Field(
        default_factory=lambda: user_data_path("moontune") / "models",
        description="Folder of the bases that `moontune models pull` fetched, one folder each.",
    )
    compile: bool = Field(
        default=False,
        description="Compile the vision tower's blocks with torch.compile on an accelerator; nobody has run that yet.",
    )


def pulled_folder(name: str) -> Path:
    """Where a pulled base of this name is, or would be."""
    return ModelSettings().models_dir.expanduser() / name


def local_bases() -> dict[str, Path]:
    """Folders of the bases in the package and of the pulled ones, by name, sorted; the package's goes first."""
    found = [*pulled_folder("").glob(f"*/{CONFIG_FILE}"), *BASES.glob(f"*/{CONFIG_FILE}")]
    return dict(sorted((file.parent.name, file.parent) for file in found))


def named_base(name_or_path: str) -> str:
    """What names this base to a process of any working directory: its name, or its folder's absolute path.

    A name goes before a folder that happens to be called the same. Raises ModelNotFound naming the bases there are.
    """
    return name_or_path if name_or_path in local_bases() else str(find_base(name_or_path).resolve())


def find_base(name_or_path: str) -> Path:
    """The folder of a base; raises ModelNotFound naming the bases there are."""
    here = local_bases()
    if name_or_path in here:
        return here[name_or_path]
    folder = Path(name_or_path).expanduser()
    if (folder / CONFIG_FILE).is_file():
        return folder
    raise ModelNotFound(
        f"base {name_or_path!r} is not here; give one of {', '.join(here) or '(none yet)'}, fetch one with `moontune "
        f"models pull`, or give the path of a folder with {CONFIG_FILE}, weights and {TOKENIZER_FILE}",
        metadata={"base": name_or_path},
    )
