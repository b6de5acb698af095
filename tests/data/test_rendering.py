"""A chat template that loops, doubles or raises ends in one line, and is not begun a second time."""

import re

import conftest
import pytest

from trapo.data import rendering
from trapo.data.rendering import Endless, render
from trapo.data.tokens import prompt_text

CHAT = [{"role": "user", "content": "1+1="}]
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLES = "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
LONG = "{% set n = namespace(x='ab') %}{% for i in range(22) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
POWER = "{{ 9**(9**9) }}"  # Python does not look at signals until it has the number
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ more }}"


def tokenizer(template):
    found = conftest.new_tokenizer()
    found.chat_template = template
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(rendering, "CPU_SECONDS", 1)
    monkeypatch.setattr(rendering, "_tried", {})


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (LOOP, "more than 1 s"),
        (POWER, "more than 1 s"),
        (DOUBLES, "MiB|more than 1 s"),
        (LONG, "more than 4000000 characters"),
    ],
)
def test_a_template_without_an_end_is_one_line(template, said):
    with pytest.raises(Endless, match=r"^the chat template does not end: it (took|wrote) .*: mend it") as error:
        render(CHAT, tokenizer(template))
    assert re.search(said, str(error.value))


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no such role') }}", "{{ messages.x.y }}", "{% for %}", "{{ 1/0 }}"]
)
def test_a_template_that_fails_is_one_line(template):
    with pytest.raises(ValueError, match=r"^the chat template fails: .*: mend it") as error:
        render(CHAT, tokenizer(template))
    assert not isinstance(error.value, Endless) and "\n" not in str(error.value)


def test_what_comes_out_is_transformers_own():
    found = tokenizer(PLAIN)
    whole = found.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False, more="!")
    assert render(CHAT, found, more="!") == prompt_text(CHAT, found, more="!") == whole == "<user>1+1=!"


def test_prompts_that_are_little_larger_are_not_tried_again(monkeypatch):
    forks, fork = [], rendering._try
    monkeypatch.setattr(rendering, "_try", lambda work: forks.append(1) or fork(work))
    found = tokenizer(PLAIN)
    for n in (10, 20, 100, 30, 200, 1000, 2000):
        render([{"role": "user", "content": "x" * n}], found)
    assert len(forks) == 3  # 10, 100 of 64 + n characters, 1000
    render(CHAT, found, more="other")
    assert len(forks) == 4


def test_a_template_that_ends_only_for_short_prompts_is_found():
    found = tokenizer("{% if messages[0].content | length > 500 %}" + LOOP + "{% endif %}{{ messages[0].content }}")
    assert render(CHAT, found) == "1+1="
    with pytest.raises(Endless):
        render([{"role": "user", "content": "x" * 501}], found)


def test_screening_ends_with_the_first_row(tmp_path):
    """Not row after row, each to its limit."""
    import json

    from typer.testing import CliRunner

    from trapo_cli.cli import app

    conftest.new_model().save_pretrained(tmp_path / "model")
    tokenizer(LOOP).save_pretrained(tmp_path / "model")
    rows = [{"prompt": CHAT, "answer": "2", "expert": ["\\boxed{2}"]}] * 50
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "rows.jsonl"), "--max_completion_length", "40"]
    done = CliRunner().invoke(app, ["train", *data, "--output_dir", str(tmp_path / "run")])
    assert done.exit_code == 2 and done.stderr.startswith("error: the chat template does not end"), done.output
    assert not (tmp_path / "run").exists()
