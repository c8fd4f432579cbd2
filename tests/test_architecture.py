import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jacobian_rnn as jrnn
from jacobian_rnn import mean_field

PACKAGE = Path(jrnn.__file__).parent
ORDER = [
    "graded_svd",
    "gated_jacobian",
    "closed_form",
    "cells",
    "checks",
    "checkpoints",
    "torch_weights",
    "keras_weights",
    "orbax_weights",
    "dense_chain",
    "padded_sequences",
    "traced_steps",
    "jacobians",
    "literature_cells",
    "linear_recurrent_unit",
    "frames",
    "factored_form",
    "product_passes",
    "products",
    "spectra_by_lag",
    "credit_assignment",
    "mean_field.scalars",
    "mean_field.quadrature",
    "mean_field.roots",
    "mean_field.activations",
    "mean_field.vanilla",
    "mean_field.critical_lines",
    "mean_field.finite_depth",
    "mean_field.full_spectrum",
    "mean_field.random_products",
    "mean_field.units",
    "mean_field.untied",
    "mean_field.tied",
    "mean_field.reference_values",
    "initializers",
    "parameter_changes",
    "batch_means",
    "rate_curve",
    "tangent_run",
    "spectrum",
    "lyapunov",
    "growth",
    "initialization",
    "regimes",
    "observation",
    "agreement",
    "task_definition",
    "digits",
    "tasks",
    "training",
    "plotting.marks",
    "plotting.singular_values",
    "plotting.exponents",
    "plotting.regimes",
    "plotting.training",
]
FLAX = {
    "closed_form",
    "cells",
    "literature_cells",
    "checkpoints",
    "orbax_weights",
    "initializers",
    "parameter_changes",
    "initialization",
}
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__init__"
)


def imported(module):
    """List what a module imports at its top level, as dotted names."""
    names = []
    source = PACKAGE / f"{module.replace('.', '/')}.py"
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def test_every_module_has_its_place_in_the_order():
    assert set(MODULES) == set(ORDER)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_only(module):
    for name in imported(module):
        package, _, rest = name.partition(".")
        if package == "jacobian_rnn":
            (used,) = (place for place in ORDER if f"{rest}.".startswith(f"{place}."))
            assert ORDER.index(used) < ORDER.index(module), name


@pytest.mark.parametrize("module", MODULES)
def test_flax_matplotlib_and_private_jax_stay_where_they_belong(module):
    for name in imported(module):
        assert not name.startswith("jax._src")
        assert not name.startswith("matplotlib")
        assert not name.startswith(("experiments", "paper_figures"))
        assert module in FLAX or not name.startswith("flax")


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
