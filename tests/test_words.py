"""Public names keep to the words of the project: gain, growth, fresh, kept, verbs and nouns."""

import inspect
import types

import pytest

import jacobian_rnn as jrnn
from jacobian_rnn import initializers, mean_field, monitoring, plotting, tasks, training, treatments

PLACES = [jrnn, mean_field, monitoring, plotting, tasks, training, initializers, treatments]
# Names of functions about weights. A parameter that is called gain multiplies weights, too.
ABOUT_WEIGHTS = {"with_gain", "regime_against_gain"}
# Nouns that look like participles, and what is done to them.
NOUNS = {"adding", "predict_learning", "selective_copying", "with_padding"}


def public_of(place):
    """List what a module shows: `__all__`, or else the functions and classes that it defines."""
    if hasattr(place, "__all__"):
        return {name: getattr(place, name) for name in place.__all__}
    return {
        name: value
        for name, value in vars(place).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == place.__name__
    }


def members_of(value):
    """List fields, properties and methods of a class by name."""
    if not isinstance(value, type):
        return {}
    # What all tuples and integers have is not ours to name.
    foreign = {*dir(tuple), *dir(int)}
    fields = dict.fromkeys(getattr(value, "__annotations__", {}))
    members = fields | dict(inspect.getmembers(value))
    return {
        name: member
        for name, member in members.items()
        if not name.startswith("_") and name not in foreign
    }


PUBLIC = {
    f"{place.__name__}.{name}": value
    for place in PLACES
    for name, value in public_of(place).items()
}
MEMBERS = {
    f"{path}.{name}": member
    for path, value in PUBLIC.items()
    for name, member in members_of(value).items()
}
FUNCTIONS = {
    path: value
    for path, value in (PUBLIC | MEMBERS).items()
    if isinstance(value, types.FunctionType)
}


def last(path):
    return path.rpartition(".")[2]


def test_the_names_that_are_looked_at_are_those_of_all_places():
    for path in (
        "jacobian_rnn.draw",
        "jacobian_rnn.mean_field.kept_growth",
        "jacobian_rnn.tasks.adding",
        "jacobian_rnn.initialization.initializers.chrono_bias",
        "jacobian_rnn.JacobianProduct.log_rms_growth",
    ):
        assert path in FUNCTIONS
    assert "jacobian_rnn.mean_field.FreshGrowth.settled" in MEMBERS


@pytest.mark.parametrize("path", PUBLIC | MEMBERS)
def test_gain_is_a_factor_on_weights_and_weights_are_fresh_or_kept(path):
    name = last(path).lower()
    assert "gain" not in name or name in ABOUT_WEIGHTS
    assert "tied" not in name


@pytest.mark.parametrize("path", FUNCTIONS)
def test_functions_are_verbs_or_nouns_and_no_participles(path):
    assert not last(path).endswith(("ed", "ing")) or last(path) in NOUNS


@pytest.mark.parametrize("path", FUNCTIONS)
def test_no_function_has_the_name_of_its_module(path):
    assert last(path) != last(FUNCTIONS[path].__module__).lstrip("_")


@pytest.mark.parametrize("path", FUNCTIONS)
def test_parameters_speak_of_gain_for_weights_alone(path):
    for name in inspect.signature(FUNCTIONS[path]).parameters:
        assert "gain" not in name or name == "gain"
        assert "tied" not in name
