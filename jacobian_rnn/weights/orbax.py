"""The weights of Flax cells, from a directory that Orbax wrote."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jaxtyping import PyTree

from jacobian_rnn.cells.flax import from_linen, from_nnx
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_finite, check_shape, check_x64, list_names, refuse

UNDAMAGED = "a complete Orbax checkpoint that is not damaged"


def from_orbax(
    cell: nn.Module | nnx.Module, path: str | os.PathLike, *, at: Sequence[str | int] = ()
) -> Recurrence:
    """Turn a Flax cell and the weights that Orbax wrote of it into a `Recurrence`.

    Only the arrays at `at` are read. They go onto the host, whatever devices wrote them. Their
    names, shapes and dtypes have to be those of the cell.

    Args:
        cell: a linen or nnx cell. For a layer, pass `layer.cell`, whose parameters lie under
            "cell". The `param_dtype` of the cell has to be the dtype of the checkpoint. An nnx
            cell is not changed.
        path: the directory that Orbax wrote. A checkpoint manager has one for each item of a step,
            such as "run/1000/default".
        at: the keys down to the cell's parameters in a larger tree, such as `("params", "rnn")`
            in a train state.

    Returns:
        The recurrence. A linen checkpoint may hold `{"params": ...}` or the bare parameters.

    Raises:
        TypeError: `cell` is no Flax cell, or an array has another dtype than in the cell.
        ValueError: `cell` is a layer, `path` holds no complete Orbax checkpoint, nothing is at
            `at`, or an array is missing, unknown, misshapen or not finite.

    Example:
        >>> import jax, jax.numpy as jnp, tempfile, orbax.checkpoint
        >>> cell = nn.GRUCell(4)
        >>> variables = cell.init(jax.random.key(0), jnp.zeros(4), jnp.zeros(3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        ...         checkpointer.save(f"{folder}/gru", variables)
        ...     gru = from_orbax(cell, f"{folder}/gru")
        >>> gru.step(gru.params, jnp.zeros(4), jnp.ones(3)).shape
        (4,)
    """
    if isinstance(cell, nn.RNN | nnx.RNN):
        refuse("cell", f"an {type(cell).__name__} layer", "its cell", "pass layer.cell, and at=")
    if isinstance(cell, nnx.Module):
        template, collection = from_nnx(cell), ""
    else:
        template, collection = from_linen(cell, {"params": {}}), "params/"
    metadata = _orbax_metadata(path)
    saved = _by_name(metadata)
    names = _names_at(at, path, saved, collection)
    leaves = {name: saved[full] for name, full in names.items()}
    for name, leaf in leaves.items():
        check_x64(name, getattr(leaf, "dtype", None))
    if isinstance(cell, nnx.Module):
        tree = template.params
        expected = _by_name(nnx.as_pure(nnx.state(cell, nnx.Param)))
        own = _by_name(tree).keys() - expected.keys()  # these may be random number generators
        below = tuple(f"{name}/" for name in own)
        leaves = {name: leaf for name, leaf in leaves.items() if not f"{name}/".startswith(below)}
    else:
        tree = _linen_variables(cell, getattr(template.step, "num_feature_axes", None), leaves)
        expected = _by_name(tree)
    _check_leaves(leaves, expected)
    restored = _read_orbax(path, metadata, {names[name] for name in leaves})
    arrays = {name: restored[names[name]] for name in leaves}
    for name, array in arrays.items():
        check_finite(name, array)
    params = jax.tree_util.tree_map_with_path(
        lambda entries, leaf: jnp.array(arrays.get(_name(entries), leaf)), tree
    )
    return dataclasses.replace(template, params=params)


def _names_at(
    at: Sequence[str | int], path: str | os.PathLike, saved: Mapping, collection: str
) -> dict[str, str]:
    """Map the names of a cell's arrays, starting with `collection`, to those in the checkpoint."""
    start = "".join(f"{key}/" for key in at)
    names = {name.removeprefix(start): name for name in saved if name.startswith(start)}
    if not names:
        refuse(
            "at", tuple(at), f"the keys down to the parameters: {path} holds {list_names(saved)}"
        )
    if all(name.endswith("/value") for name in names):  # Flax puts each array in a box
        names = {name.removesuffix("/value"): full for name, full in names.items()}
    if not any(name.startswith(collection) for name in names):
        names = {collection + name: full for name, full in names.items()}
    return names


def _orbax_metadata(path: str | os.PathLike) -> PyTree:
    """Return the tree of a checkpoint with the shape and dtype of every array."""
    import orbax.checkpoint as ocp
    from etils import epath

    folder = epath.Path(path).absolute()
    if not (folder / "_METADATA").is_file():
        inner = [*folder.glob("*/_METADATA"), *folder.glob("*/*/_METADATA")]
        advice = (
            f"there is one in {list_names(str(file.parent) for file in inner)}" if inner else ""
        )
        refuse("path", repr(str(path)), "the directory of a complete Orbax checkpoint", advice)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = getattr(checkpointer.metadata(folder).item_metadata, "tree", None)
    if tree is None:
        refuse("path", repr(str(path)), UNDAMAGED)
    return tree


def _read_orbax(path: str | os.PathLike, tree: PyTree, names: set[str]) -> dict[str, np.ndarray]:
    """Read only the named arrays of a checkpoint onto the host."""
    import orbax.checkpoint as ocp
    from etils import epath

    def choose(entries, leaf):
        if _name(entries) not in names:
            return ocp.PLACEHOLDER
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    item = jax.tree_util.tree_map_with_path(choose, tree)
    how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    arguments = ocp.args.PyTreeRestore(item=item, restore_args=how)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            return _by_name(checkpointer.restore(epath.Path(path).absolute(), args=arguments))
    except (ValueError, KeyError, OSError) as error:
        msg = f"path: received {str(path)!r}, expected {UNDAMAGED} ({error})"
        raise ValueError(msg) from error


def _linen_variables(cell: Any, num_feature_axes: int | None, leaves: Mapping) -> PyTree:
    """Return the shapes of a cell's variables for the input size that fits the leaves best."""

    def init(num_inputs):
        shape = (1,) * ((num_feature_axes or 1) - 1) + (num_inputs,)
        carry = cell.initialize_carry(jax.random.key(0), shape)
        x = jnp.zeros(shape, getattr(cell, "param_dtype", jnp.float32))
        return cell.init(jax.random.key(0), carry, x)

    def num_misfits(tree):
        shapes = {name: leaf.shape for name, leaf in _by_name(tree).items()}
        return sum(leaves[name].shape != shapes.get(name) for name in leaves)

    kernels = [name for name in sorted(leaves) if len(getattr(leaves[name], "shape", ())) > 1]
    kernels.sort(key=lambda name: not name.startswith("params/i"))  # input kernels come first
    sizes = dict.fromkeys(leaves[name].shape[-2] for name in kernels) or {1: None}
    candidates = [nn.unbox(jax.eval_shape(partial(init, size))) for size in sizes]
    return min(candidates, key=num_misfits)


def _check_leaves(found: Mapping, expected: Mapping):
    if strange := sorted(found.keys() - expected.keys()):
        advice = "pass at=, the keys down to its parameters, if they are part of a larger tree"
        refuse(
            strange[0],
            f"it among {list_names(found)}",
            f"{list_names(expected)} of the cell",
            advice,
        )
    for name, leaf in expected.items():
        if name not in found:
            refuse(name, f"only {list_names(found)}", f"{list_names(expected)} of the cell")
        check_shape(name, getattr(found[name], "shape", None), leaf.shape)
        if found[name].dtype != leaf.dtype:
            advice = f"give the cell param_dtype=jnp.{found[name].dtype} (nnx.SimpleCell dtype too)"
            received, wanted = f"dtype {found[name].dtype}", f"{leaf.dtype} of the cell"
            refuse(name, received, wanted, advice, error=TypeError)


def _name(entries: tuple) -> str:
    return jax.tree_util.keystr(entries, simple=True, separator="/")


def _by_name(tree: PyTree) -> dict[str, Any]:
    return {_name(entries): leaf for entries, leaf in jax.tree_util.tree_leaves_with_path(tree)}
