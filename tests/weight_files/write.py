"""The files of this folder, written by PyTorch itself: python tests/weight_files/write.py, last with PyTorch 2.13.0.

Each has the weights of tests/test_weight_files.py under torchvision's names, in the form that its name says.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent


def main() -> None:
    weights = {
        "features.0.weight": torch.from_numpy(
            np.random.default_rng(0).standard_normal((4, 3, 5, 5)).astype(np.float32)
        ),
        "features.0.bias": torch.arange(4, dtype=torch.float32),
        "classifier.6.weight": torch.from_numpy(np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)),
        "classifier.6.bias": torch.ones(2),
    }
    one = torch.cat([tensor.reshape(-1) for tensor in weights.values()])
    sizes = [tensor.numel() for tensor in weights.values()]
    views = {
        name: part.view(tensor.shape) for (name, tensor), part in zip(weights.items(), one.split(sizes), strict=True)
    }
    views["classifier.6.weight"] = weights["classifier.6.weight"].t().contiguous().t()
    trained = [torch.nn.Parameter(tensor.clone()) for tensor in weights.values()]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    sum(tensor.sum() for tensor in trained).backward()
    optimizer.step()
    wrapped = {name.replace("features.", "features.module."): tensor for name, tensor in weights.items()}
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    files = {
        "plain.pth": weights,
        "bfloat16.pt": {name: tensor.bfloat16() for name, tensor in weights.items()},
        "half.pth": {name: tensor.half() for name, tensor in weights.items()},
        "parameters.pth": {name: torch.nn.Parameter(tensor) for name, tensor in weights.items()},
        "views.pth": views,
        "imagenet_example.pth.tar": {
            "epoch": 90, "arch": "alexnet", "best_acc1": np.float64(56.5), "args": argparse.Namespace(lr=0.01),
            "state_dict": wrapped, "optimizer": optimizer.state_dict(),
        },
        "lightning.ckpt": {
            "state_dict": {f"net.{name}": tensor for name, tensor in weights.items()}
            | {"net.bn.num_batches_tracked": torch.tensor(3)},
            "hyper_parameters": argparse.Namespace(),
        },
        "whole_model.pth": model,
        "one_tensor.pth": torch.zeros(3),
    }  # fmt: skip
    for name, content in files.items():
        torch.save(content, HERE / name)
    torch.save(weights, HERE / "before_1_6.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
