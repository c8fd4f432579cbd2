import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jacobian_rnn as jrnn
from jacobian_rnn import mean_field

PACKAGE = Path(jrnn.__file__).parent
# From the ground up: a folder may use those before it.
FOLDERS = [
    "checks",
    "linalg",
    "cells",
    "tasks",
    "mean_field",
    "weights",
    "jacobians",
    "lyapunov",
    "growth",
    "products",
    "phase_space",
    "training",
    "regimes",
    "initialization",
    "monitoring",
    "diagnosis",
    "plotting",
]
FLAX = {"cells", "weights", "initialization", "diagnosis"}
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
)


def imports(module):
    """List what a module imports, as `(dotted name, whether only for annotations)`."""
    source = PACKAGE / f"{module.replace('.', '/')}.py"
    for node in ast.parse(source.read_text()).body:
        only_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for one in node.body if only_types else [node]:
            if isinstance(one, ast.Import):
                yield from ((alias.name, only_types) for alias in one.names)
            elif isinstance(one, ast.ImportFrom):
                yield from ((f"{one.module}.{alias.name}", only_types) for alias in one.names)


def module_of(name):
    """Return the module of the package that an imported name is, or is of."""
    whole = name.removeprefix("jacobian_rnn.")
    for module in (whole, whole.rpartition(".")[0]):
        for found in (module, f"{module}.__init__"):
            if found in MODULES:
                return found
    raise ValueError(name)


def test_every_folder_has_its_place_and_there_are_few():
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix in ("", ".py")}
    assert found - {"__pycache__"} == {"__init__", *FOLDERS}
    assert len(found - {"__pycache__"}) <= 18


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_only(module):
    own = module.split(".")[0]
    for name, only_types in imports(module):
        if not name.startswith("jacobian_rnn") or only_types:
            continue
        used = module_of(name).split(".")[0]
        assert FOLDERS.index(used) <= FOLDERS.index(own), name


def test_no_modules_import_each_other_in_a_circle():
    reached = {}

    def visit(module, path):
        assert module not in path, [*path, module]
        if module not in reached:
            reached[module] = True
            for name, only_types in imports(module):
                if name.startswith("jacobian_rnn") and not only_types:
                    visit(module_of(name), [*path, module])

    for module in MODULES:
        if not module.endswith("__init__"):
            visit(module, [])


@pytest.mark.parametrize("module", MODULES)
def test_what_is_private_to_a_folder_stays_there(module):
    for name, _ in imports(module):
        if name.startswith("jacobian_rnn"):
            *folder, last = name.split(".")[1:]
            private = [part for part in (*folder, last) if part.startswith("_")]
            assert not private or folder[0] == module.split(".")[0], name
            # Nobody takes a private name from another module either.
            assert not last.startswith("_") or f"{'.'.join(folder)}.{last}" in MODULES, name


@pytest.mark.parametrize("module", MODULES)
def test_flax_matplotlib_and_private_jax_stay_where_they_belong(module):
    for name, only_types in imports(module):
        assert not name.startswith(("jax._src", "experiments", "paper_figures"))
        assert only_types or not name.startswith("matplotlib")
        assert module.split(".")[0] in FLAX or not name.startswith("flax")


@pytest.mark.parametrize("module", MODULES)
def test_no_function_has_the_name_of_its_module(module):
    source = PACKAGE / f"{module.replace('.', '/')}.py"
    names = {
        node.name
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    assert module.split(".")[-1] not in names


def test_importing_the_package_loads_no_matplotlib_and_changes_no_setting():
    script = (
        "import sys, jax\n"
        "before = dict(jax.config.values)\n"
        "import jacobian_rnn, jacobian_rnn.plotting\n"
        "assert dict(jax.config.values) == before\n"
        "assert 'matplotlib' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", jrnn.__all__)
def test_public_names_are_documented_and_public_functions_show_an_example(name):
    public = getattr(jrnn, name)
    assert public.__doc__
    if callable(public) and not isinstance(public, type):
        assert ">>>" in public.__doc__
        assert "Raises" in public.__doc__ or name in ("graded_singular_values",)


@pytest.mark.parametrize("name", mean_field.__all__)
def test_names_of_mean_field_theory_are_documented(name):
    public = getattr(mean_field, name)
    assert public.__doc__
    if callable(public) and not isinstance(public, type) and name != "reference_names":
        assert ">>>" in public.__doc__
