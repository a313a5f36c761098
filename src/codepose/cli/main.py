"""The command line. Each command is a few lines over a public function; heavy imports stay inside commands."""

from __future__ import annotations

import io
import os
import sys
import warnings

from codepose.runtime.complaints import in_one_line

COMMANDS = {
    "demo": "train the quick preset on the built-in hammer and report: the whole paper, small, in 25 minutes",
    "mesh": "look a CAD file over: size, unit, symmetries, six views, and what to type",
    "preview": "draw a contact sheet of the training data, before any training",
    "settings": "print the dozen settings that a newcomer needs, or all",
    "train": "train a network on your CAD model",
    "calibrate": "learn how far a network's poses may be trusted; train does it by itself",
    "evaluate": "measure a trained run on held-out scenes; writes results.json and report.html",
    "predict": "find the part in photos, folders, videos or a webcam: overlays and JSON",
    "bag": "find the part in the images of a ROS bag: a bag of detections and transforms",
    "serve": "answer photos with poses over HTTP, with a page at the same address",
    "reproduce": "run the paper's experiment: every cell, its baselines, and the rows it lacks",
    "pack": "make a trained run small enough to hand on",
    "export": "write a trained run as one ONNX file, for machines without PyTorch",
    "push": "upload a trained run to the Hugging Face Hub, with a model card",
    "pull": "download a run from the Hugging Face Hub",
    "render": "write training images as a BOP dataset, for other tools",
    "report": "print a run's numbers and where its report is",
    "completion": "print the script with which bash, zsh or fish completes commands, options and files",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    if arguments[0] in ("-V", "--version"):
        from codepose import __version__

        print(f"codepose {__version__}")
        return 0
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        print(f"codepose: there is no command {command!r}\n\n{_help()}", file=sys.stderr)
        return 2
    return _run(command, rest)


def _help() -> str:
    lines = [f"  {name:<12}{what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "codepose: from a CAD model to a network that finds the part in a photo and gives its pose",
            "",
            "usage: codepose COMMAND [options]        codepose COMMAND --help",
            "",
            *lines,
        ]
    )


def _run(command: str, rest: list[str]) -> int:
    """Runs a command, turning the errors that a user can mend into one line."""
    # waiting threads must not spin where two cores are shared; read when torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")  # tyro shows its messages as they are
    _speak_plainly()
    from codepose.storage.caches import use_writable_caches

    use_writable_caches()
    from codepose.cli import invocation

    try:
        return invocation.run(command, rest, COMMANDS[command])
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:  # of the parser of options
        return end.code if isinstance(end.code, int) else 2


def _speak_plainly() -> None:
    """Lets any file name be printed, and shows our own warnings as one line each."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = _in_one_line


_as_usual = warnings.formatwarning


def _in_one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    own = category is UserWarning and filename.startswith(os.path.dirname(os.path.dirname(__file__)) + os.sep)
    return f"codepose: {in_one_line(message)}\n" if own else _as_usual(message, category, filename, lineno, line)
