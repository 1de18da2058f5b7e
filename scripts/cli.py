"""The console command: `worldmodel VERB [flags]`.

Every other file of this folder is one verb, or what all need to be a command (`console.py`, `flags.py` and what these read). Only
the module of the verb that is asked for is imported, so `worldmodel --help` and `worldmodel envs` never wait for torch.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence

import worldmodel
from worldmodel.scripts import console

VERBS = {
    "doctor": "Say what this machine offers: OpenGL, GPUs, speed, extras, disk, memory.",
    "envs": "List the tasks, or show everything about one.",
    "play": "Drive a task, or a model's dream beside it, from the keyboard in a local web page.",
    "collect": "Record episodes of a task into a file.",
    "datasets": "Inspect, check, repair, merge, split, convert, mix and fetch data.",
    "codec": "Train the visual codec: frames to latents and back.",
    "codecs": "Compare codecs: reconstruction and what their latents know, in one table.",
    "pretrain": "Train the model on action video, captions, questions, text and pictures at once.",
    "dream": "Predict a held-out episode from its actions, and write a video of truth beside prediction.",
    "plan": "Solve a few held-out problems by planning, and write one video of them.",
    "evaluate": "Success rates of planning on held-out problems, beside the controls.",
    "diagnose": "Where a model fails: codec, dynamics, ranking, search or none, with what usually mends it.",
    "generate": "Continue a sentence, caption frames, draw pictures for captions.",
    "experts": "Show which experts of a mixture serve text, which serve vision, and how steadily.",
    "ablate": "Train variants with several seeds and say which of the paper's findings hold.",
    "isoflop": "Train a grid of sizes and budgets, fit scaling exponents for language and vision.",
    "benchmark": "Measure speeds as ratios, or how often the demonstrators succeed.",
    "quickstart": "The whole loop at once: collect, train, evaluate, report.",
    "runs": "List runs, codecs and evaluations: how far each is, and how good.",
    "compare": "Put runs side by side: settings that differ, figures with intervals, curves.",
    "results": "Gather quickstarts of several tasks and seeds into one record and one table.",
}
"""Verb and what it does, in the order of the data flow."""


def main() -> None:
    """Run the installed command."""
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Run the verb that `args` starts with and return the exit status."""
    console.prepare_streams()
    if not args:
        return console.guarded("", lambda: print(overview(), file=sys.stderr)) or 2
    verb, *flags = args
    if verb in ("-h", "--help"):
        return console.guarded("", lambda: print(overview()))
    if verb == "--version":
        return console.guarded("", lambda: print(f"worldmodel {worldmodel.__version__}"))
    if verb not in VERBS:
        return console.complain("", _unknown(verb))
    return console.run_verb(verb, lambda: importlib.import_module(f"worldmodel.scripts.{verb}").main, flags)


def overview() -> str:
    """Write the text of `worldmodel --help`."""
    width = max(len(verb) for verb in VERBS)
    rows = [f"  {verb:<{width}}  {sentence}" for verb, sentence in VERBS.items()]
    return "\n".join(
        [
            "usage: worldmodel VERB [flags]",
            "",
            *rows,
            "",
            "worldmodel VERB --help shows an example and the flags of a verb; worldmodel --version prints the version.",
            "--config FILE of every verb reads its flags from a TOML file, as --print-config prints it.",
            "Files go under WORLDMODEL_HOME (default ~/.worldmodel) unless a flag says otherwise.",
        ]
    )


def _unknown(verb: str) -> str:
    kind = "flag" if verb.startswith("-") else "verb"
    close = difflib.get_close_matches(verb, VERBS, n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; the verbs are {', '.join(VERBS)}"
    return f"unknown {kind} '{verb}'{hint}"


if __name__ == "__main__":
    main()
