import shutil, traceback
from pathlib import Path
import pytest
from worldmodel.scripts.cli import run
from tests.scripts.conftest import TINY_CODEC, TINY_MODEL

def test_explore(tiny, tmp_path, capfd):
    d, c, s = str(tiny.data), str(tiny.run), str(tiny.small_frames)
    probs = "--problems.problems 1 --problems.goal-offset 4 --problems.budget 6 --problems.min-distance 0.1".split()
    out = ["--out", str(tmp_path / "o")]
    cases = [
        ["evaluate", "--checkpoint", c, "--data", d, *out, *probs, "--only", "bogus"],
        ["evaluate", "--checkpoint", c, "--data", d, *out, *probs, "--workers", "0"],
        ["evaluate", "--checkpoint", c, "--data", s, *out, *probs],
        ["evaluate", "--checkpoint", c, "--data", d, *out, *probs, "--rollout.num-steps", "0"],
        ["evaluate", "--checkpoint", c, "--data", d, *out, *probs, "--rollout.max-sequences", "0"],
        ["evaluate", "--checkpoint", c, "--data", d, *out, "--manifest", str(tmp_path/"none.json")],
        ["evaluate", "--checkpoint", c, "--data", d, "--out", d, *probs],
        ["plan", "--checkpoint", c, "--data", s, *out, *probs],
        ["plan", "--checkpoint", c, "--data", d, *out],
        ["dream", "--checkpoint", c, "--data", s, *out],
        ["dream", "--checkpoint", c, "--data", d, *out, "--dream.horizon", "50"],
        ["dream", "--checkpoint", c, "--data", d, *out, "--dream.horizon", "2", "--rollout.num-steps", "0"],
        ["dream", "--checkpoint", c, "--data", d, *out, "--dream.horizon", "2", "--shown", "0"],
        ["generate", "--checkpoint", c, "--data", s],
        ["generate", "--checkpoint", c],
        ["generate", "--checkpoint", c, "--text", ""],
        ["generate", "--checkpoint", c, "--text", "a", "--tokens", "0"],
        ["generate", "--checkpoint", c, "--text", "a", "--temperature", "-1"],
        ["generate", "--checkpoint", c, "--text", "a", "--seed", "-1"],
        ["generate", "--checkpoint", c, "--draw", "a", "--steps", "0", *out],
        ["generate", "--checkpoint", c, "--draw", "a", *out],
        ["generate", "--checkpoint", d, "--text", "a"],
        [*tiny.codec_flags, "--out", str(tmp_path/"cc"), "--device", "bogus"],
        [*tiny.codec_flags, "--out", str(tmp_path/"cc"), "--device", "cuda"],
        [*tiny.codec_flags, "--out", str(tmp_path/"cc1"), "--mixture.held-out", "2"],
        [*tiny.codec_flags, "--out", str(tmp_path/"cc2"), "--mixture.held-out", "0"],
        [*tiny.codec_flags, "--out", str(tmp_path/"cc3"), "--data", d, s],
        [*tiny.codec_flags, "--out", str(tmp_path/"cc4"), "--data", s],
        [*tiny.codec_flags, "--out", str(tmp_path/"cc5"), "--codec.seed", "-1"],
        [*tiny.pretrain_flags[:1], "--data", s, *tiny.pretrain_flags[3:]],
    ]
    def pre(flags):
        f = tiny.pretrain_flags; i = f.index("preset:tiny")
        return [*f[:i], "--out", str(tmp_path/"p"/str(len(cases))), *flags, *f[i:]]
    cases += [pre(["--mixture.clip-length", "0"]), pre(["--mixture.clip-length", "50"]), pre(["--mixture.action-block", "0"]), pre(["--vocab-size", "3"]), pre(["--mixture.text", "-1"]), pre(["--mixture.text-chunk", "0"]),
      pre(["--mixture.corpora", "x.pdf"]), pre(["--mixture.corpora", "x.txt"]), pre([f"--mixture.{x}=0" for x in "action-video video caption captioned-image question text pictures".split()]),
      [*pre([]), "--preset.train.device", "bogus"], [*pre([]), "--preset.train.seed", "-1"], [*pre([]), "--preset.train.packing.rows", "0"], [*pre([]), "--preset.train.packing.length", "4"],[*pre([]), "--preset.model.trunk.width", "8"],[*pre([]), "--preset.model.trunk.heads", "5"], [*pre([]), "--preset.model.trunk.depth", "0"], [*pre([]), "--preset.train.warmup-steps", "-1"],
      ["collect", "--out", str(tmp_path), "--episodes", "1", "--workers", "1"],
      ["collect", "--out", "/proc/x/y.h5", "--episodes", "1", "--workers", "1"],
      ["quickstart", "--out", d],
      ["quickstart", "--env", "worldmodel/Two-v0", *out],
      ["quickstart", "--workers", "0", *out],
      ["quickstart", "--seed", "-1", "--out", str(tmp_path/"q1")],
      ["quickstart", "--episodes", "0", "--out", str(tmp_path/"q2")],
      ["quickstart", "--episodes", "1", "--steps", "12", "--out", str(tmp_path/"q3")],
    ]
    lines = []
    for case in cases:
        try:
            rc = run(case)
        except BaseException as e:
            rc = "TB " + repr(e)[:200] + " @ " + traceback.format_tb(e.__traceback__)[-1].replace("\n"," ")[:200]
        o, e = capfd.readouterr()
        err = [l for l in e.replace("\r", "\n").splitlines() if l.strip()]
        lines.append(f"{rc} :: {' '.join(x if len(x) < 40 else '..'+x[-20:] for x in case)[-150:]} :: {err[-1][:250] if err else ''} [{len([l for l in err if 'error' in l])}] out={o[-60:]!r}")
        Path("/tmp/w/rq/explore.log").write_text("\n".join(lines))
