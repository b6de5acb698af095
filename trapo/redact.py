"""Secrets out of what is written or printed: tokens, keys, and user and password in URLs, by name and by shape.

Whatever writes a command, a configuration or an error goes through here: the run folder, an evaluation's, figures,
reports, the terminal.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

HIDDEN = "***"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
# Not max_tokens, eos_token, token_alpha: a token that is a secret has a name that says whose it is, or none at all.
_SECRET = (
    r"(?:(?:.*[-_.])?(?:api[-_]?key|access[-_]?key|private[-_]?key|secret|secret[-_]?key|password|passwd|passphrase|"
    r"credentials?|authorization|(?:api|access|auth|hub|hf|bearer|session|refresh|id|wandb|github|gitlab|openai)"
    r"[-_]?token)|token|key|apikey)"
)
_SECRET_NAME = re.compile(_SECRET, re.IGNORECASE)
# NAME=VALUE, NAME: VALUE and --NAME VALUE within a text; a bare "key" or "token" only as a flag: words have keys too.
_NAMED = re.compile(
    r"""(?P<name>(?<![\w-])(?:--?(?:[\w.]+[-_])*(?:key|secret|password|token)(?=[=\s])|"""
    r"""["']?(?:[\w.]+[-_])*(?:api|access|private|secret|auth|hub|hf|bearer|session|refresh|wandb|openai)"""
    r"""[-_]?(?:key|token)["']?(?=\s*[=:])|["']?(?:[\w.]+[-_])*(?:password|passwd|secret)["']?(?=\s*[=:])))"""
    r"""(?P<between>\s*[=:]\s*|\s+)(?P<value>'[^']*'|"[^"]*"|(?!-)[^\s,;)}\]'"]+)""",
    re.IGNORECASE,
)
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}"
    r"|github_pat_\w{16,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*|wandb_v1_\w{16,})"
)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_PLACE = re.compile(r"<\w+>")  # what transformers writes for a token, "<HUB_TOKEN>"
_SHORTEST = 8  # of a value of the environment that is looked for: shorter ones stand in ordinary words


def redacted_url(url: str) -> str:
    """A URL without user, password and the values of its query and fragment: any of them may be a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:  # a broken one may hold a password all the same
        return re.sub(r"//[^/@]*@", f"//{HIDDEN}@", url)
    if "@" in parts.netloc:
        parts = parts._replace(netloc=f"{HIDDEN}@{parts.netloc.rpartition('@')[2]}")
    if parts.query:
        hidden = [(name, HIDDEN) for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
        parts = parts._replace(query=urlencode(hidden, safe="*") if hidden else HIDDEN)
    if "=" in parts.fragment:
        parts = parts._replace(fragment=HIDDEN)
    return parts.geturl()


def redacted(text: str) -> str:
    """A text without secrets: those in its URLs, those that follow a secret's name, and what looks like one."""
    for value in _of_environment():
        text = text.replace(value, HIDDEN)
    if "://" in text:
        text = _URL.sub(lambda found: redacted_url(found[0]), text)
    text = _BEARER.sub(lambda found: f"{found[1]} {HIDDEN}", text)
    text = _NAMED.sub(lambda found: f"{found['name']}{found['between']}{HIDDEN}", text)
    return _SHAPES.sub(HIDDEN, text)


def redacted_command(command: Sequence[str]) -> list[str]:
    """A command's parts without secrets, and what follows a flag such as --api-key or --hub_token hidden."""
    shown, hide = [], False
    for part in map(str, command):
        name, given, _ = part.partition("=")
        secret = name.startswith("-") and is_secret(name.lstrip("-"))
        if hide and not part.startswith("--"):
            shown.append(HIDDEN)
        else:
            shown.append(f"{name}={HIDDEN}" if secret and given else redacted(part))
        hide = secret and not given
    return shown


def redacted_line(command: str) -> str:
    """A command line as `redacted_command` has it; a text that is none as `redacted`."""
    try:
        parts = shlex.split(command)
    except ValueError:
        return redacted(command)
    shown = redacted_command(parts)
    return command if shown == parts else " ".join(HIDDEN if p == HIDDEN else shlex.quote(p) for p in shown)


def redacted_values(value: Any, name: str = "") -> Any:
    """A configuration, or any value for JSON, without secrets: by the names of its fields, and in all its texts."""
    if isinstance(value, Mapping):
        return {key: redacted_values(x, str(key)) for key, x in value.items()}
    if name and is_secret(name) and isinstance(value, str) and value:
        return value if _PLACE.fullmatch(value) else HIDDEN
    if isinstance(value, list | tuple):
        if name == "command" and all(isinstance(part, str) for part in value):
            return redacted_command(value)
        return [redacted_values(x, name) for x in value]
    if not isinstance(value, str):
        return value
    return redacted_line(value) if name == "command" else redacted(value)


def is_secret(name: str) -> bool:
    """Whether a field or a flag of this name holds a secret."""
    return bool(_SECRET_NAME.fullmatch(name))


def _of_environment() -> list[str]:
    """Secrets of this process's environment, such as HF_TOKEN's value; the longest first."""
    found = {value for name, value in os.environ.items() if is_secret(name) and len(value) >= _SHORTEST}
    return sorted(found, key=len, reverse=True)
