import json
from types import SimpleNamespace

import conftest
import pytest

from trapo.models import context_of, load_tokenizer


def config(value):
    """Of a type that transformers does not know, and does not check."""
    text = SimpleNamespace(max_position_embeddings=value)
    return SimpleNamespace(get_text_config=lambda: text)


@pytest.mark.parametrize("value", ["32768", {}, 0, -1, True, 1.5])
def test_a_context_that_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match=r"max_position_embeddings .*: it must be a whole number"):
        context_of(config(value))


def test_a_context_is_the_models_or_unknown():
    assert context_of(conftest.new_model().config) == 256
    assert context_of(config(None)) is None


def test_a_tokenizer_whose_length_is_no_number_is_refused(tmp_path):
    conftest.new_model().save_pretrained(tmp_path)
    conftest.new_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": {"a": 1}}))
    with pytest.raises(ValueError, match=r"its tokenizer's model_max_length is {'a': 1}, not a number"):
        load_tokenizer(str(tmp_path))
