from __future__ import annotations

import email
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PACKAGE_FOLDERS = {
    "carepos": "sdk/carepos",
    "carepos_plugin": "pos_plugin/carepos_plugin",
    "carepos_ledger": "ledger/carepos_ledger",
}
HEAVY = ("alembic", "escpos", "flask", "PIL", "psycopg", "qrcode", "rich", "sqlalchemy", "waitress")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources") / "carepos"
    _copy_sources(folder)
    return folder


@pytest.fixture(scope="module")
def distributions(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel built through it, as a release would be."""
    folder = tmp_path_factory.mktemp("dist")
    # Without isolation: the build backend is among the locked dependencies, no network is needed.
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)],
        check=True,
        capture_output=True,
        text=True,
    )
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def light_python(
    distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A Python that has the wheel and what its metadata asks for, and nothing else."""
    folder = tmp_path_factory.mktemp("light")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    scripts = "Scripts" if os.name == "nt" else "bin"
    variables = {"base": str(folder), "platbase": str(folder)}
    site_packages = Path(sysconfig.get_path("purelib", "venv", vars=variables))
    _, wheel = distributions
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site_packages)  # noqa: S202  # our own wheel, made a moment ago
    for name in _closure(_unconditional_requirements(wheel)):
        _link_distribution(name, site_packages)
    return folder / scripts / "python"


def test_the_sdk_works_with_its_three_dependencies_alone(light_python: Path) -> None:
    """`pip install carepos` brings a light SDK: it imports, and nothing heavy comes along."""
    found = _run(
        light_python,
        "import carepos, importlib.util, pkgutil, sys\n"
        "for module in pkgutil.iter_modules(carepos.__path__, 'carepos.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
        f"print([n for n in {HEAVY!r} if n in sys.modules or importlib.util.find_spec(n)])\n"
        "print([n for n in sys.modules if n.startswith(('carepos_plugin', 'carepos_ledger'))])\n"
        "print(carepos.__file__)\n",
    ).splitlines()
    assert found[:2] == ["[]", "[]"]
    assert str(ROOT) not in found[2]
    assert Path(found[2]).is_relative_to(light_python.parent.parent)


def test_the_wheel_asks_for_three_dependencies_and_time_zones_on_windows(
    distributions: tuple[Path, Path],
) -> None:
    """Everything beyond requests, PyJWT and cryptography is an extra."""
    unconditional = [r for r in _requirements(distributions[1]) if not _belongs_to_an_extra(r)]
    always = {canonicalize_name(r.name) for r in unconditional if r.marker is None}
    sometimes = {canonicalize_name(r.name): str(r.marker) for r in unconditional if r.marker}
    assert always == {"requests", "pyjwt", "cryptography"}
    assert sometimes == {"tzdata": 'sys_platform == "win32"'}


def test_no_file_of_the_packages_is_missing_from_the_wheel_and_none_is_foreign(
    source: Path, distributions: tuple[Path, Path]
) -> None:
    """The wheel holds every module and data file of the three packages, and nothing more."""
    in_tree = {
        f"{package}/{path.relative_to(source / folder).as_posix()}"
        for package, folder in PACKAGE_FOLDERS.items()
        for path in (source / folder).rglob("*")
        if path.is_file()
    }
    with zipfile.ZipFile(distributions[1]) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert in_wheel == in_tree


def test_the_licence_travels_with_both_distributions(distributions: tuple[Path, Path]) -> None:
    """Whoever receives CarePOS receives its licence."""
    sdist, wheel = distributions
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/LICENSE") for name in archive.getnames())
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith("/LICENSE") for name in archive.namelist())
    assert _metadata(wheel)["License-Expression"] == "Apache-2.0"


def test_every_subcommand_named_in_the_metadata_belongs_to_a_module_in_the_wheel(
    distributions: tuple[Path, Path],
) -> None:
    """An entry point leads to a module that is shipped."""
    with zipfile.ZipFile(distributions[1]) as archive:
        names = set(archive.namelist())
        entries = next(name for name in names if name.endswith("/entry_points.txt"))
        lines = archive.read(entries).decode().splitlines()
    modules = {line.partition("=")[2].partition(":")[0].strip() for line in lines if "=" in line}
    assert modules
    for module in modules:
        stem = module.replace(".", "/")
        assert {f"{stem}.py", f"{stem}/__init__.py"} & names, module


def _copy_sources(target: Path) -> None:
    """What a clone would hold: a stale `build/` would ship modules deleted long ago."""

    target.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md", "MANIFEST.in"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, target / name)
    for folder in PACKAGE_FOLDERS.values():
        copy = target / folder
        shutil.copytree(ROOT / folder, copy, ignore=shutil.ignore_patterns("__pycache__"))


def _metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def _requirements(wheel: Path) -> list[Requirement]:
    return [Requirement(text) for text in _metadata(wheel).get_all("Requires-Dist", [])]


def _belongs_to_an_extra(requirement: Requirement) -> bool:
    return requirement.marker is not None and "extra ==" in str(requirement.marker)


def _unconditional_requirements(wheel: Path) -> list[Requirement]:
    return [
        requirement
        for requirement in _requirements(wheel)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]


def _closure(requirements: list[Requirement]) -> set[str]:
    """The names of these distributions and of all that they need, as installed here."""
    names: set[str] = set()
    waiting = list(requirements)
    while waiting:
        name = canonicalize_name(waiting.pop().name)
        if name in names:
            continue
        names.add(name)
        for text in importlib.metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(needed)
    return names


def _link_distribution(name: str, site_packages: Path) -> None:
    installed = importlib.metadata.distribution(name)
    home = Path(str(installed.locate_file("")))
    roots = {file.parts[0] for file in installed.files or () if file.parts[0] != ".."}
    for root in roots - {"__pycache__"}:
        if not (site_packages / root).exists():
            (site_packages / root).symlink_to(home / root)


def _run(python: Path, program: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), "-I", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
