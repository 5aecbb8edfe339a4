"""A plain `pip install moontune`, without extras, has the clients and the whole command line."""

import subprocess
import sys
import tomllib
import zipfile

import pytest

from tools.generate_protos import ROOT

MODULES = {
    "google-re2": "re2",
    "grpcio-health-checking": "grpc_health",
    "grpcio-reflection": "grpc_reflection",
    "quickjs-ng": "quickjs",
}
"""The module of each distribution that an extra brings, where it is not the distribution's name."""

BLOCK = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def absent() -> set[str]:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {requirement.partition(">")[0] for extra in ("serve", "torch") for requirement in extras[extra]}
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = BLOCK.format(absent=absent()) + code
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("module", ["moontune.clients.sync", "moontune.cli.main"])
def test_clients_and_command_line_need_no_extra_and_load_nothing_heavy(module):
    done = run(f"import {module}; print(sorted({{'torch', 'peft', 'sqlalchemy', 'pydantic'}} & set(sys.modules)))")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


def test_keys_are_managed_from_a_plain_install(tmp_path):
    code = "from moontune.cli.main import app; app(sys.argv[1:])"
    url = f"sqlite:///{tmp_path}/keys.db"
    made = run(code, "keys", "create", "--database", url, "--organisation", "acme")
    assert (made.returncode, made.stdout.startswith("mt_")) == (0, True), made.stderr
    assert "acme" in run(code, "keys", "list", "--database", url).stdout


@pytest.mark.slow
def test_the_wheel_holds_the_package_alone_with_its_data(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "-q", "-w", str(tmp_path)]
    subprocess.run(command, check=True, timeout=300)
    [wheel] = tmp_path.glob("moontune-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"moontune"}
    base = "moontune/model/bases/moontune-tiny"
    wanted = {f"{base}/{file}" for file in ("config.json", "model.safetensors", "tokenizer.json")}
    assert wanted | {"moontune/py.typed", "moontune/auth/migrations/versions/0001_api_keys.py"} <= set(names)
