"""Whether a label is among the best guesses."""

import jax
import jax.numpy as jnp


def is_among_best(logits_BK: jax.Array, labels_B: jax.Array, k: int) -> jax.Array:
    """Whether the label is one of the k largest logits, [B] bool; of equal logits the first counts as the larger."""
    label_logit = jnp.take_along_axis(logits_BK, labels_B[:, None], axis=1)
    earlier = jnp.arange(logits_BK.shape[1])[None] < labels_B[:, None]
    ahead = (logits_BK > label_logit) | ((logits_BK == label_logit) & earlier)
    return ahead.sum(axis=1) < k
