"""Every rpc of the contract has a scope, and the table names nothing else."""

import importlib
import pkgutil

import moontune.api
from moontune.auth.scopes import SCOPE_OF


def rpcs() -> set[str]:
    found: set[str] = set()
    for module in pkgutil.walk_packages(moontune.api.__path__, "moontune.api."):
        if module.name.endswith("_service_pb2"):
            descriptor = importlib.import_module(module.name).DESCRIPTOR
            for service in descriptor.services_by_name.values():
                found |= {f"{service.name}/{method.name}" for method in service.methods}
    return found


def test_the_table_of_scopes_is_the_contract():
    assert set(SCOPE_OF) == rpcs()
    assert len(SCOPE_OF) > 50
