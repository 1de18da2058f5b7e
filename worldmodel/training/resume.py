"""A run's folder: one run at a time, one configuration, and states that training goes on from exactly.

    config.json                         what the run was asked to do
    checkpoints/step_000100/            a checkpoint as in `checkpoint.py`, with the averaged weights, and
        training/                       weights, averages and optimizers, by `torch.distributed.checkpoint`
        progress.json                   step, counts; the step tells the place in the data, too

Every process writes its own parts of the tensors, and reads whatever parts it needs of what any number of processes wrote. The
files are safetensors that say in their headers which parts they hold; there is no pickle. All processes of a run see one file system;
the main process makes, names and removes folders.
"""

import contextlib
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor, nn

from worldmodel.checkpoint import checkpoints
from worldmodel.datasets.atomic import atomic_dir, is_leftover, locked_folder
from worldmodel.datasets.records import shortened
from worldmodel.errors import UserError
from worldmodel.serialization import check_or_write_config, read_json, rebuild, write_json
from worldmodel.training.distributed import Processes
from worldmodel.training.optimizer import optimizer_tensors

SCHEMA_VERSION = 3
MARK = {"schema_version": SCHEMA_VERSION, "kind": "run"}
"""Stands in the config of every run."""
FILE_BYTES = 2**30
"""About as large a file is, of the tensors that all processes together have: one is copied in memory while it is written."""

REMEDY = "remove it to go on from the checkpoint before it, or from the start if there is none"
"""What to do about a checkpoint that cannot be gone on from."""


@dataclass
class Progress:
    """Where a run stands, apart from its tensors."""

    step: int = 0  # optimizer steps done
    positions: dict[str, int] = field(default_factory=dict)  # trained on so far, per source
    seconds: float = 0.0  # spent in steps
    skipped: list[int] = field(default_factory=list)  # numbers of the batches that were never trained on
    suspects: list[int] = field(default_factory=list)  # those of them that the spike detector holds against the weights
    losses: list[float] = field(default_factory=list)  # of the last steps, for the spike detector
    norms: list[float] = field(default_factory=list)  # of their gradients
    rollbacks: int = 0  # times that training went back to a checkpoint and has not come further since
    trouble: int = 0  # the step that it went back from

    def __post_init__(self) -> None:
        numbers = [("step", self.step), ("seconds", self.seconds), ("rollbacks", self.rollbacks), ("trouble", self.trouble)]
        for name, value in [*numbers, *((f"positions of {source}", count) for source, count in self.positions.items())]:
            if value < 0:
                raise UserError(f"{name} is {value}, must not be negative")
        if self.skipped != sorted({number for number in self.skipped if 0 <= number < self.position}):
            raise UserError(f"skipped is {shortened(self.skipped)}, must be rising numbers from 0 and below {self.position}")
        if not set(self.suspects) <= set(self.skipped):
            raise UserError(f"suspects is {shortened(self.suspects)}, must be of those skipped, {shortened(self.skipped)}")
        if len(self.losses) != len(self.norms):
            raise UserError(f"there are {len(self.losses)} losses and {len(self.norms)} norms, must be as many")

    @property
    def position(self) -> int:
        """Number of the next batch: those trained on and those passed over lie behind."""
        return self.step + len(self.skipped)

    def advance(self, sources: dict[str, int], seconds: float) -> None:
        """Count one step: its positions per source, its time."""
        self.step, self.seconds = self.step + 1, self.seconds + seconds
        for name, positions in sources.items():
            self.positions[name] = self.positions.get(name, 0) + positions


@dataclass
class State:
    """Everything that the next step depends on."""

    model: nn.Module
    average: nn.Module
    optimizers: list[torch.optim.Optimizer]
    progress: Progress

    def tensors(self) -> dict[str, Tensor]:
        """Collect weights, averages and the optimizers' state by name, sharing memory with their owners."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        moments = optimizer_tensors(self.model, self.optimizers)
        return tensors | {f"optimizer.{name}": tensor for name, tensor in moments.items()}


@contextlib.contextmanager
def shared_folder(folder: Path, processes: Processes) -> Iterator[Path]:
    """Share one `atomic_dir` among all processes: they write into one folder, which is there when all have done so."""
    with contextlib.ExitStack() as stack:
        beside = stack.enter_context(atomic_dir(folder)) if processes.is_main else None
        yield processes.broadcast_object(beside)
        processes.barrier()  # all have written
    processes.barrier()  # it has its name


@contextlib.contextmanager
def locked_run_folder(run_dir: Path, record: dict[str, Any]) -> Iterator[None]:
    """Hold a run's folder until the block ends, and write what the run does, or check that the folder says the same.

    Raises:
        UserError: the folder is in use, holds a run with other settings, or something else; nothing is written to it then.
    """
    path = run_dir / "config.json"
    if path.exists() and not MARK.items() <= read_json(path).items():
        raise UserError(f"{path} belongs to something else or to another version of worldmodel: name another run folder")
    if run_dir.is_dir() and not path.exists():
        others = sorted(each.name for each in run_dir.iterdir() if each.name != "lock" and not is_leftover(each.name))
        if others:
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            raise UserError(f"{run_dir} holds {others[0]!r}{more} and is no run's folder: name an empty folder, or one to be made")
    with locked_folder(run_dir):
        if path.exists() and read_json(path) == MARK:
            path.unlink()
        check_or_write_config(path, MARK | record)
        yield


def release(run_dir: Path) -> None:
    """Forget what a run does, so that another may have its folder and what lies there; called by the one that holds it."""
    write_json(run_dir / "config.json", MARK)


def newest_checkpoint(run_dir: Path) -> Path | None:
    """Find the checkpoint folder of the most steps."""
    found = checkpoints(run_dir)
    return found[-1] if found else None


def prune(run_dir: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what a killed process left half written."""
    for folder in checkpoints(run_dir)[:-keep]:
        shutil.rmtree(folder)
    for leftover in (run_dir / "checkpoints").glob(".step_*"):
        shutil.rmtree(leftover)


def write_state(folder: Path, state: State) -> None:
    """Write everything that the next step depends on into a checkpoint folder; with several processes, all call it."""
    tensors = state.tensors()
    sizes = (tensor.numel() * tensor.element_size() for tensor in tensors.values())
    files = {name: 1 + total // FILE_BYTES for name, total in zip(tensors, accumulate(sizes, initial=0), strict=False)}
    writer = dcp.HuggingFaceStorageWriter(str(folder / "training"), files, save_distributed=True)
    with one_process():
        dcp.save(tensors, storage_writer=writer, no_dist=not dist.is_initialized())
    if not dist.is_initialized() or dist.get_rank() == 0:
        write_json(folder / "progress.json", vars(state.progress))


def read_state(folder: Path, state: State) -> None:
    """Fill `state` in place from a checkpoint folder; with several processes, all call it.

    Raises:
        UserError: the folder is damaged.
    """
    progress = read_progress(folder)
    reader = dcp.HuggingFaceStorageReader(str(folder / "training"))
    try:
        check_parts(reader.read_metadata())
        with one_process():
            dcp.load(state.tensors(), storage_reader=reader, no_dist=not dist.is_initialized())
    except (dcp.CheckpointException, OSError, SafetensorError, ValueError) as error:
        cause = next(iter(error.failures.values()))[0] if isinstance(error, dcp.CheckpointException) else error
        raise UserError(f"{folder} is damaged ({cause}): {REMEDY}") from None
    state.progress = progress


def read_progress(folder: Path) -> Progress:
    """Read the progress in a checkpoint folder.

    Raises:
        UserError: it is missing, damaged or of another version, or its fields are not what they can be.
    """
    path = folder / "progress.json"
    try:
        progress = rebuild(Progress, read_json(path, REMEDY), f"{path}: progress")
    except UserError as error:
        raise UserError(str(error) if str(error).endswith(REMEDY) else f"{error}: {REMEDY}") from None
    assert isinstance(progress, Progress)
    return progress


def check_parts(metadata: dcp.Metadata) -> None:
    """Make sure that the parts of every tensor are there; loading would leave what is not as it was.

    Raises:
        ValueError: some are missing.
    """
    for name, found in metadata.state_dict_metadata.items():
        assert isinstance(found, dcp.metadata.TensorStorageMetadata)
        there = sum(chunk.sizes.numel() for chunk in found.chunks)
        if there != found.size.numel():
            raise ValueError(f"it has {there} of the {found.size.numel()} numbers of {name}")


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """Silence torch's warning of saving and loading from one process, which is meant here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield
