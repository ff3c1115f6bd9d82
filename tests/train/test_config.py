"""Recipes: what they accept, what they refuse, and the schedules that follow from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from jrtcli.errors import UsageError
from jrtcli.train.config import from_dict, load_recipe
from jrtcli.train.schedule import differences, lr_factor, stage_at

RECIPE = """
steps = 100
seed = 3
tokenizer = "tok.json"
[model]
architecture = "based"
config = { n_embd = 32 }
[optimizer]
warmup_steps = 10
muon_lr = 1
[data]
document_tokens = 64
[[curriculum]]
share = 0.25
document_tokens = 32
[[curriculum]]
share = 0.75
lr = 0.5
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.toml"
    file.write_text(RECIPE, encoding="utf-8")
    return file


def test_reads_tables_and_stages(path: Path) -> None:
    recipe = load_recipe(path)
    assert (recipe.steps, recipe.seed, recipe.model.architecture) == (100, 3, "based")
    assert recipe.model.config == {"n_embd": 32}
    assert recipe.optimizer.muon_lr == 1.0 and isinstance(recipe.optimizer.muon_lr, float)
    assert recipe.curriculum[0].data == {"document_tokens": 32}
    assert recipe.curriculum[1].lr == 0.5
    assert Path(recipe.tokenizer) == path.parent / "tok.json"
    assert from_dict(recipe.as_dict()) == recipe


def test_overrides(path: Path) -> None:
    recipe = load_recipe(
        path,
        ["steps=7", "model.config.n_embd=64", "optimizer.decay=cosine", "curriculum.1.lr=0.1", "data.x=[1]"],
    )
    assert recipe.steps == 7 and recipe.model.config == {"n_embd": 64}
    assert recipe.optimizer.decay == "cosine" and recipe.curriculum[1].lr == 0.1
    assert recipe.data["x"] == [1]


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("stepz=1", "stepz"),
        ("optimizer.muon=1", "optimizer.muon"),
        ("optimizer.decay=soon", "optimizer.decay"),
        ("steps=0", "steps"),
        ('steps="many"', "steps"),
        ("seed=true", "seed"),
        ("curriculum.0.share=0.5", "curriculum"),
        ("curriculum.9.share=0.5", "curriculum.9"),
        ("steps", "key=value"),
        ("model=3", "model"),
        ("steps.more=3", "steps"),
        ("precision=fp8", "precision"),
        ("objective.kind=clm", "objective.kind"),
        ("objective.mask_share=0", "objective.mask_share"),
        ("tensorboard=perhaps", "tensorboard"),
    ],
)
def test_mistakes_are_named(path: Path, override: str, named: str) -> None:
    with pytest.raises(UsageError, match=named.replace(".", r"\.")):
        load_recipe(path, [override])


def test_missing_file_and_bad_toml(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml"):
        load_recipe(tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("steps = = 3")
    with pytest.raises(UsageError, match="not a TOML file"):
        load_recipe(bad)
    bad.write_text("seed = 3")
    with pytest.raises(UsageError, match="steps is missing"):
        load_recipe(bad)


def test_stages_cover_the_run(path: Path) -> None:
    recipe = load_recipe(path)
    assert [stage_at(recipe, s) for s in (0, 24, 25, 99, 500)] == [0, 0, 1, 1, 1]


def test_rates_warm_up_and_decay(path: Path) -> None:
    recipe = load_recipe(path, ["curriculum.1.lr=1.0", "optimizer.final_lr=0.0"])
    assert lr_factor(recipe, 0) == pytest.approx(0.1)
    assert lr_factor(recipe, 9) == pytest.approx(1.0)
    assert lr_factor(recipe, 10) == pytest.approx(1.0)
    assert lr_factor(recipe, 55) == pytest.approx(0.5)
    assert lr_factor(recipe, 100) == pytest.approx(0.0)
    held = load_recipe(path, ["curriculum.1.lr=1.0", "optimizer.final_lr=0.0", "optimizer.decay_from=0.8"])
    assert lr_factor(held, 79) == 1.0
    assert lr_factor(held, 90) == pytest.approx(0.5)
    cosine = load_recipe(path, ["optimizer.decay=cosine", "optimizer.final_lr=0.0"])
    assert lr_factor(cosine, 55) == pytest.approx(0.25)  # half way, times the stage's 0.5


def test_what_may_change_in_a_run_that_goes_on(path: Path) -> None:
    recipe = load_recipe(path)
    saved = recipe.as_dict()
    del saved["objective"], saved["tensorboard"]  # of a version that had neither
    assert differences(saved, load_recipe(path, ["workers=3", "tensorboard=off"]).as_dict()) == []
    changed = load_recipe(path, ["objective.kind=lm", "data.document_tokens=32"]).as_dict()
    assert differences(saved, changed) == ["data.document_tokens", "objective.kind"]


def test_encoder_lengths_are_one_number_or_two(path: Path) -> None:
    assert load_recipe(path, ["objective.encoder_tokens=9"]).objective.encoder_tokens == (9,)
    assert load_recipe(path, ["objective.encoder_tokens=[3, 9]"]).objective.encoder_tokens == (3, 9)
    for wrong in ("[9, 3]", "[1, 2, 3]", "-1", "true", "some"):
        with pytest.raises(UsageError, match=r"objective\.encoder_tokens"):
            load_recipe(path, [f"objective.encoder_tokens={wrong}"])


def test_paths_of_data_are_beside_the_recipe(path: Path) -> None:
    recipe = load_recipe(path, ["data.text_paths=['a', 'b/*.gz']", "curriculum.1.qa_paths=['rows.jsonl']"])
    assert recipe.data["text_paths"] == [str(path.parent / "a"), str(path.parent / "b/*.gz")]
    assert recipe.curriculum[1].data["qa_paths"] == [str(path.parent / "rows.jsonl")]
    with pytest.raises(UsageError, match=r"data\.text_paths"):
        load_recipe(path, ["data.text_paths=3"])


def test_a_start_is_a_folder_beside_the_recipe_or_a_name(path: Path) -> None:
    assert load_recipe(path, ["model.init_from=tiny"]).model.init_from == "tiny"
    (path.parent / "tiny").mkdir()
    assert load_recipe(path, ["model.init_from=tiny"]).model.init_from == str(path.parent / "tiny")
