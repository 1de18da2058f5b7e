import dataclasses
import fcntl
import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from worldmodel.codec import training_stages
from worldmodel.codec.frames import frames_to_float
from worldmodel.codec.kinds import load_codec
from worldmodel.codec.ssl import JointConfig, MaskedConfig
from worldmodel.codec.training import CodecConfig, choose, train_codec
from worldmodel.codec.training_stages import EncoderVariant
from worldmodel.errors import UserError


class Killed(Exception):
    """Stands for kill -9."""


def kill_in(stage, step, monkeypatch):
    """Makes the loss of a stage raise at a step."""
    real = training_stages.fit

    def fit(name, module, loss, *rest):
        calls = []

        def dying(generator, progress):
            calls.append(1)
            if name == stage and len(calls) > step:
                raise Killed
            return loss(generator, progress)

        return real(name, module, dying, *rest)

    monkeypatch.setattr(training_stages, "fit", fit)


def test_a_codec_learns_the_square_world(square_world, tiny_config, tmp_path):
    config = dataclasses.replace(
        tiny_config,
        masked=MaskedConfig(steps=250),
        joint=JointConfig(steps=120, expander_width=32),
        decoder_steps=250,
        batch_size=32,
        fit=dataclasses.replace(tiny_config.fit, lr=5e-3, warmup=20, checkpoint_every=100),
    )
    codec, report = train_codec(config, square_world, tmp_path / "codec")
    for name in ("mae", "vicreg"):
        probe = report["objectives"][name]["probe"]
        assert set(probe["features"]) == {"row", "column"}
        assert probe["r2"] > 0.7, name
    distances = report["objectives"]["mae"]["goal_distance"]
    assert distances["goal_features"]["spearman"] > 0.5
    assert report["reconstruction"]["psnr"] > report["reconstruction"]["psnr_mean_frame"] + 4
    assert report["reconstruction"]["psnr_moving"] > report["reconstruction"]["psnr_moving_mean_frame"] + 4
    latents = codec.encode(frames_to_float(square_world.frames[square_world.validation]))
    assert 0.3 < latents.std().item() < 2
    assert not any(parameter.requires_grad for parameter in codec.parameters())


def test_the_folder_holds_everything_and_a_second_call_reads_it(square_world, tiny_config, tmp_path):
    codec, report = train_codec(tiny_config, square_world, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report))
    assert not (tmp_path / "checkpoints").exists()
    written = (tmp_path / "model.safetensors").stat().st_mtime_ns
    again, same = train_codec(tiny_config, square_world, tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == written
    assert same["chosen"] == report["chosen"]
    frames = frames_to_float(square_world.frames[:4])
    assert torch.equal(again.encode(frames), codec.encode(frames))
    assert torch.equal(load_codec(tmp_path).decode(codec.encode(frames)), codec.decode(codec.encode(frames)))
    log = EventAccumulator(str(tmp_path / "tensorboard"))
    log.Reload()
    tags = log.Tags()
    assert {"codec/mae/loss", "codec/vicreg/variance", "codec/decoder/l1"} <= set(tags["scalars"])
    assert {"codec/frames_above_reconstructions_below", "codec/extra_above_reconstructions_below"} <= set(tags["images"])


@pytest.mark.parametrize("stage", ["mae", "vicreg", "decoder"])
def test_a_killed_run_goes_on_bit_for_bit(stage, square_world, tiny_config, tmp_path, monkeypatch):
    whole, _ = train_codec(tiny_config, square_world, tmp_path / "whole")
    with monkeypatch.context() as context:
        kill_in(stage, 5, context)
        with pytest.raises(Killed):
            train_codec(tiny_config, square_world, tmp_path / "cut")
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    resumed, _ = train_codec(tiny_config, square_world, tmp_path / "cut")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_another_seed_gives_another_codec(square_world, tiny_config, tmp_path):
    config = dataclasses.replace(tiny_config, objectives=("mae",))
    first, _ = train_codec(config, square_world, tmp_path / "first")
    second, _ = train_codec(dataclasses.replace(config, seed=1), square_world, tmp_path / "second")
    assert not torch.equal(first.encoder.embed.weight, second.encoder.embed.weight)


def test_without_extras_and_with_one_objective(square_world, tiny_config, tmp_path):
    data = dataclasses.replace(square_world, extra=None, extra_validation=None, feature_names=())
    codec, report = train_codec(dataclasses.replace(tiny_config, objectives=("vicreg",)), data, tmp_path)
    assert report["chosen"] == "vicreg" and "psnr_extra" not in report["reconstruction"]
    assert set(report["objectives"]["vicreg"]["probe"]["features"]) == {"feature_0", "feature_1"}
    train = codec.encode_frames(data.frames[data.train])
    assert train.mean(dim=0).abs().max() < 1e-3  # the statistics are those of the frames alone


def test_statistics_are_those_of_frames_and_extras_by_share(square_world, tiny_config, tmp_path):
    codec, _ = train_codec(dataclasses.replace(tiny_config, objectives=("mae",)), square_world, tmp_path)
    frames = codec.encode_frames(square_world.frames[square_world.train])
    extra = codec.encode_frames(square_world.extra)
    assert (0.75 * frames.mean(dim=0) + 0.25 * extra.mean(dim=0)).abs().max() < 1e-3
    square = 0.75 * frames.square().mean(dim=0) + 0.25 * extra.square().mean(dim=0)
    assert square.max() < 1 + 1e-3 and square.mean() > 0.95  # 1, less the eps


def test_the_better_probe_wins_and_near_ties_go_to_the_first():
    def variants(first, second):
        errors = {"mae": first, "vicreg": second}
        return {name: EncoderVariant(None, None, {"probe": {"error": error}}) for name, error in errors.items()}

    assert choose(variants(1.0, 0.5), 0.1) == "vicreg"
    assert choose(variants(1.0, 0.95), 0.1) == "mae"
    assert choose(variants(1.0, 0.95), 0.0) == "vicreg"


def test_other_arguments_and_other_data_are_refused(square_world, tiny_config, tmp_path):
    train_codec(tiny_config, square_world, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(UserError, match="other settings: config.seed was 0 and is now 9; name another folder"):
        train_codec(dataclasses.replace(tiny_config, seed=9), square_world, tmp_path)
    with pytest.raises(UserError, match="other settings: data was"):
        train_codec(tiny_config, dataclasses.replace(square_world, extra=None), tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


def test_foreign_folders_files_and_folders_in_use_are_refused(square_world, tiny_config, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="holds something else"):
        train_codec(tiny_config, square_world, foreign)
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="is a file"):
        train_codec(tiny_config, square_world, foreign / "thesis.tex")
    busy = tmp_path / "busy"
    busy.mkdir()
    with open(busy / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="in use"):
            train_codec(tiny_config, square_world, busy)
    (busy / "run.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        train_codec(tiny_config, square_world, busy)


def test_frames_of_the_wrong_size_are_refused_before_anything_is_written(square_world, tmp_path):
    with pytest.raises(UserError, match="64, 64, 3"):
        train_codec(CodecConfig(), square_world, tmp_path / "codec")
    assert not (tmp_path / "codec").exists()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"objectives": ("mae", "dino")}, "dino"),
        ({"objectives": ()}, "one or both"),
        ({"decoder_steps": 0}, "decoder_steps 0"),
        ({"batch_size": 1}, "batch_size 1"),
        ({"extra_share": 1.0}, "extra_share 1.0"),
        ({"kind": "vq"}, "'vq'"),
        ({"kind": "vae", "encoder_name": "efficientnet-lite0"}, "efficientnet-lite0 is for a codec of kind rae"),
        ({"kl_weight": -1.0}, "kl_weight -1.0"),
        ({"vae_steps": 0}, "vae_steps 0"),
    ],
)
def test_impossible_settings_are_refused(wrong, named):
    with pytest.raises(UserError, match=named):
        CodecConfig(**wrong)
