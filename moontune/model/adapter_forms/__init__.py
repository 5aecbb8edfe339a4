"""Forms in which an adapter comes in and goes out: one file each. See docs/adapters.md.

What a form cannot carry is refused with the list of tensors; nothing is dropped and nothing is guessed.
"""

from moontune.model.adapter_forms.exports import export_adapter, export_full
from moontune.model.adapter_forms.imports import Imported, import_adapter

__all__ = ["Imported", "export_adapter", "export_full", "import_adapter"]
