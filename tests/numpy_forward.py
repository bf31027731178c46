"""The network of an exported folder by safetensors and NumPy alone: python tests/numpy_forward.py READING.py

It runs in the folder and writes logits.npy of images.npy there. READING.py is what the model card shows: it reads the
folder and prepares an image. Everything after that is here, operation by operation as the recipes describe them.
"""

import sys

import numpy as np


def convolved(x, w, b, stride, padding):
    """[C, H, W] by [M, C per group, k, k], one pixel after the other."""
    x = np.pad(x, ((0, 0), padding, padding))
    size, groups = w.shape[2], len(x) // w.shape[1]
    length = (x.shape[1] - size) // stride + 1
    y = np.empty((len(w), length, length), x.dtype)
    for group in range(groups):
        mine = slice(group * w.shape[1], (group + 1) * w.shape[1])
        out = slice(group * len(w) // groups, (group + 1) * len(w) // groups)
        for i in range(length):
            for j in range(length):
                window = x[mine, i * stride : i * stride + size, j * stride : j * stride + size]
                y[out, i, j] = np.tensordot(w[out], window, 3) + b[out]
    return y


def normalized(x, size, alpha, beta, k, alpha_over_size, across_towers, towers):
    """Over neighboring channels, the window centered and cut off at the edges of a tower, or of all of them."""
    scale, own = alpha / size if alpha_over_size else alpha, len(x) if across_towers else len(x) // towers
    y = np.empty_like(x)
    for c in range(len(x)):
        first = c // own * own
        window = x[max(first, c - size // 2) : min(first + own, c + size - size // 2)]
        y[c] = x[c] / (k + scale * (window**2).sum(axis=0)) ** beta
    return y


def spatially_normalized(x, size, alpha, beta, k):
    """Over the pixels around, those beyond the edges being 0."""
    before, after = size // 2, size - 1 - size // 2
    squares = np.pad(x**2, ((0, 0), (before, after), (before, after)))
    d = sum(squares[:, i : i + x.shape[1], j : j + x.shape[2]] for i in range(size) for j in range(size))
    return x / (k + alpha / size**2 * d) ** beta


def pooled(x, kind, size, stride, ceil):
    """Windows cut off at the edges; each begins inside."""
    starts = [i for i in range(0, x.shape[1], stride) if i + size <= x.shape[1]]
    if ceil and starts[-1] + size < x.shape[1] and starts[-1] + stride < x.shape[1]:
        starts.append(starts[-1] + stride)
    reduce = {"max": np.max, "avg": np.mean}[kind]
    return np.stack(
        [np.stack([reduce(x[:, i : i + size, j : j + size], (1, 2)) for j in starts], 1) for i in starts], 1
    )


def logits_of(x, model, weights):
    """[H, W, 3], prepared -> [K]."""
    x = x.transpose(2, 0, 1)
    for layer in model["layers"]:
        own, w, b = model[layer], weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        x = convolved(x, w, b, own["stride"], own["padding"]) if w.ndim == 4 else w @ x.reshape(-1) + b
        for word in own["post_ops"].split():
            if word == "relu":
                x = np.maximum(x, 0)
            elif word == "norm":
                x = normalized(x, **model["norm"], towers=model["towers"])
            elif word == "spatial_norm":
                x = spatially_normalized(x, **model["spatial_norm"])
            elif word == "pool":
                x = pooled(x, **model["pool"])
            elif word == "avg_pool":
                x = pooled(x, **model["pool"] | {"kind": "avg"})
            else:
                assert word == "dropout", word
    return x


def main():
    with open(sys.argv[1]) as file:
        reading = file.read()
    rows = []
    for image in np.load("images.npy"):
        names = {"image": image}
        exec(reading, names)
        rows.append(logits_of(names["x"], names["config"]["model"], names["weights"]))
    np.save("logits.npy", np.stack(rows))
    assert not any(name.split(".")[0] in ("alexnet_jax", "jax", "flax", "torch", "ml_dtypes") for name in sys.modules)


if __name__ == "__main__":
    main()
