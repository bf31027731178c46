"""AlexNet as it was built in 2012: alexnet COMMAND [OPTIONS], also as python -m alexnet_jax COMMAND."""

import sys

# Nothing heavy is imported here: Ctrl-C during the imports of a command must end in one line, too.
from alexnet_jax import exits

COMMANDS = {
    "prepare": "prepare a data set: ImageNet's tars, a folder of pictures, a TFDS set",
    "train": "train, evaluate, probe or time a recipe (the same as python main.py)",
    "predict": "the top classes of pictures",
    "figures": "kernels, activations, curves, confusion and others, as PNG or SVG",
    "report": "a run on one page of HTML",
    "features": "a layer's activations of many pictures, in one file",
    "neighbours": "the pictures whose features are closest to a picture's",
    "weights": "weights in and out of files, and which AlexNet a file holds",
    "export": "a network as ONNX, StableHLO, or a folder for the Hugging Face Hub",
    "ensemble": "several checkpoints averaged",
    "recipes": "the networks there are, with their numbers",
    "summary": "a network as a table, and where its towers meet",
}


def main(argv: list[str] | None = None) -> None:
    """Runs one command and exits with its status."""
    with exits.guard():
        _run(sys.argv[1:] if argv is None else argv)


def _run(argv: list[str]) -> None:
    if argv[:1] in ([], ["--help"], ["-h"], ["help"]):
        print(_help())
        return
    if argv[0] == "--version":
        from alexnet_jax import __version__

        print(f"alexnet_jax {__version__}")
        return
    if argv[0] not in COMMANDS:
        sys.exit(f"error: {argv[0]!r} is not a command of alexnet: use one of {', '.join(COMMANDS)}.")
    from alexnet_jax.cli import app

    app.run(f"alexnet_jax.cli.{argv[0]}", argv[1:])


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join([__doc__ or "", "", *lines, "", "alexnet COMMAND --help says more."])


if __name__ == "__main__":
    main()
