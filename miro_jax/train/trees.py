"""Names of the leaves of a tree of arrays, the same whether it is an nnx.State or nested dicts."""

import jax


def leaf_name(path: tuple) -> str:
    """Return the keys that lead to a leaf, joined by "/": `blocks/0/norm/scale`.

    Args:
      path: as given by `jax.tree_util.tree_flatten_with_path`. An nnx.Variable adds the attribute
        `value` at its end, which is left out.
    """
    if path and isinstance(path[-1], jax.tree_util.GetAttrKey) and path[-1].name == "value":
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")
