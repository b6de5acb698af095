import pytest

from trapo.redact import redacted, redacted_command, redacted_line, redacted_url, redacted_values

KEY = "hf_AbCdEfGhIjKlMnOpQrSt"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["trapo", "train", "--hub_token", "abc"], ["trapo", "train", "--hub_token", "***"]),
        (["trapo", "train", "--hub-token=abc", "--seed", "1"], ["trapo", "train", "--hub-token=***", "--seed", "1"]),
        (["--api_key", "a", "--max_tokens", "5"], ["--api_key", "***", "--max_tokens", "5"]),
        (["--token-alpha", "0.1", "--eos_token", "</s>"], ["--token-alpha", "0.1", "--eos_token", "</s>"]),
        (["--hub_token", "--seed", "1"], ["--hub_token", "--seed", "1"]),  # its value is missing: a flag is none
        (["--run_name", KEY], ["--run_name", "***"]),
        (["--base-url", "http://me:pw@host/v1"], ["--base-url", "http://***@host/v1"]),
    ],
)
def test_a_command_without_its_secrets(given, shown):
    assert redacted_command(given) == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://user:pass@host:80/v1", "http://***@host:80/v1"),
        ("http://token@host/v1", "http://***@host/v1"),
        ("http://host/v1?key=a&page=2", "http://host/v1?key=***&page=***"),
        ("http://host/#access_token=a", "http://host/#***"),
        ("http://a:b@[broken/v1", "http://***@[broken/v1"),
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
    ],
)
def test_a_url_without_its_secrets(given, shown):
    assert redacted_url(given) == shown
    assert redacted(f"no server at {given} (refused)") == f"no server at {shown} (refused)"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (f"401 for {KEY}", "401 for ***"),
        ("Authorization: Bearer abcdefgh12345", "Authorization: Bearer ***"),
        ("OPENAI_API_KEY=abc is wrong", "OPENAI_API_KEY=*** is wrong"),
        ("{'hub_token': 'abc', 'seed': 1}", "{'hub_token': ***, 'seed': 1}"),
        ("--hub_token abc --seed 1", "--hub_token *** --seed 1"),
        ("password = x", "password = ***"),
        ("sk-proj-0123456789abcdef", "***"),
        ("an answer of 3 tokens: the key idea", "an answer of 3 tokens: the key idea"),
        ("KeyError: 'step'", "KeyError: 'step'"),
    ],
)
def test_a_text_without_its_secrets(given, shown):
    assert redacted(given) == shown


def test_values_by_name_by_shape_and_inside_of_lists():
    given = {
        "hub_token": "abc", "seed": 1, "alpha": 0.1, "other": None, "max_tokens": 7, "hf_token": "<HF_TOKEN>",
        "model_init_kwargs": {"token": "abc", "dtype": "bf16"}, "urls": ["http://a:b@c", "x"], "name": KEY,
        "command": ["trapo", "--hub_token", "abc"],
    }  # fmt: skip
    assert redacted_values(given) == {
        "hub_token": "***", "seed": 1, "alpha": 0.1, "other": None, "max_tokens": 7, "hf_token": "<HF_TOKEN>",
        "model_init_kwargs": {"token": "***", "dtype": "bf16"}, "urls": ["http://***@c", "x"], "name": "***",
        "command": ["trapo", "--hub_token", "***"],
    }  # fmt: skip


def test_a_command_line_keeps_its_quotes_where_nothing_is_hidden():
    assert redacted_line("trapo report 'a b'") == "trapo report 'a b'"
    assert redacted_line("trapo eval --api-key abc 'a b'") == "trapo eval --api-key *** 'a b'"
    assert redacted_line("it's --hub_token abc") == "it's --hub_token ***"


def test_a_secret_of_the_environment_is_hidden_wherever_it_stands(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "plainlooking")
    assert redacted("login with plainlooking failed") == "login with *** failed"
