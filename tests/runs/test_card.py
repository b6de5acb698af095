"""The model card is written from the run."""

import json

from huggingface_hub import ModelCard
from run_folders import make_run

from trapo.runs.card import write_card
from trapo.runs.folder import RunFolder


def test_the_card_says_what_the_run_was(tmp_path):
    path = make_run(tmp_path / "mine", reward=0.5)
    record = json.loads((path / "run.json").read_text())
    record |= {"model": "Qwen/Qwen2.5-Math-7B", "model_path": "x", "command": ["trapo", "train", "--alpha", "0.1"]}
    record |= {"git": "abc", "device": "cpu", "world_size": 1, "rows": 1200, "rows_fingerprint": "f00"}
    (path / "run.json").write_text(json.dumps(record))
    card = ModelCard(write_card(RunFolder(path)))
    assert card.data.library_name == "transformers" and card.data.base_model == "Qwen/Qwen2.5-Math-7B"
    assert "trapo" in card.data.tags
    for words in (
        "Qwen/Qwen2.5-Math-7B after 4 steps of RL, trained with trapo's recipe `trapo` (alpha: 0.1) on world.",
        "- Paper: arXiv 2512.17636",
        "| test, accuracy | 100 | 100 | 0.100 (0.055 to 0.174) | 0.500 (0.404 to 0.596) |",  # Wilson: 10 and 50 of 100
        "| facts, accuracy | 100 | 100 | 0.900 (0.826 to 0.945) | 0.800 (0.711 to 0.867) |",
        "    trapo train --alpha 0.1\n",
        "224 samples drawn, 32 demonstrations shown",
        '"learning_rate": 0.0001',
        "fingerprint f00",
    ):
        assert words in card.text, words


def test_a_run_of_ones_own_without_held_out_set_has_a_card(tmp_path):
    path = make_run(tmp_path / "mine", alpha=None)
    record = json.loads((path / "run.json").read_text())
    for name in ("recipe", "model", "data"):
        del record[name]
    record |= {"model_path": "my/model", "git": None, "device": "cpu", "world_size": 2, "rows": None}
    (path / "run.json").write_text(json.dumps(record | {"rows_fingerprint": None}))
    (path / "evals.jsonl").unlink()
    text = write_card(RunFolder(path))
    assert (
        "my/model after 4 steps of RL" in text and "None: there was no held-out set." in text and "alpha: none" in text
    )
