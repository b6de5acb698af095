import pytest

from trapo.command.settings import resolve_config
from trapo.command.values import check_types
from trapo.recipe import load_yaml


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages: [1]", "f: stages is [1], but must be a list of texts"),
        ("stages: rl", "f: stages is 'rl', but must be a list of texts"),
        ("guidance: [paper]", "f: guidance is ['paper'], but must be text"),
        ("chat_template_kwargs: foo", "f: chat_template_kwargs is 'foo', but must be a mapping, name: value"),
        ("chat_template_kwargs: '[1]'", "f: chat_template_kwargs is '[1]', but must be a mapping, name: value"),
        ("micro_group_sizes: [1.5]", "f: micro_group_sizes is [1.5], but must be a list of whole numbers"),
        ("learning_rate: 5e-6", "f: learning_rate is '5e-6', but must be a number"),
        ("max_steps: yes", "f: max_steps is True, but must be a whole number"),
        ("save_strategy: [no]", "f: save_strategy is [False], but must be text"),
        ("log_rollouts: 'no'", "f: log_rollouts is 'no', but must be true or false"),
        ("report_to: 3", "f: report_to is 3, but must be text or a list of texts"),
        ("run_name: 3", "f: run_name is 3, but must be text"),
    ],
)
def test_a_value_of_another_type_is_named(text, said):
    with pytest.raises(ValueError) as error:
        check_types(load_yaml(text, "f"), "f")
    assert str(error.value) == said


@pytest.mark.parametrize(
    "text",
    [
        "stages: [sft, rl]", "chat_template_kwargs: {enable_thinking: false}", "report_to: [none]", "report_to: none",
        "chat_template_kwargs: '{\"enable_thinking\": false}'", "learning_rate: 1", "max_steps: -1", "thresholds:",
        "save_strategy: steps", "deepspeed: zero3.json", "micro_group_sizes: [4, 4]", "prefix_ratios: [0, 0.5]",
    ],
)  # fmt: skip
def test_what_fits_is_let_through(text):
    check_types(load_yaml(text, "f"), "f")


@pytest.mark.parametrize("text", ["a: " + "[" * 3000 + "]" * 3000, "a: 2020-13-45", "a: [", "\x00", "a: " + "9" * 5000])
def test_text_that_is_no_yaml_is_one_line(text):
    with pytest.raises(ValueError, match=r"^f is not YAML") as error:
        load_yaml(text, "f")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("flags", [["--deepspeed", "ds.json"], ["--fsdp", "x"], ["--accelerator_config", "3"]])
def test_what_a_library_says_of_a_flag_is_one_line(flags, tmp_path):
    with pytest.raises((ValueError, OSError)) as error:
        resolve_config("trapo", [], None, [*flags, "--output_dir", str(tmp_path)])
    assert len(str(error.value)) < 500


def test_a_loop_of_yaml_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"f: prefix_ratios is \[\[\.\.\.\]\], but must be a list of numbers"):
        check_types(load_yaml("prefix_ratios: &a [*a]", "f"), "f")
