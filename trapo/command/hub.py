"""`--push_to_hub`: the hub is asked before any work, and a push that fails at the end loses nothing."""

from pathlib import Path

from ..config import TRAPOConfig
from ..redact import redacted
from ..terminal import Console


def check_hub(config: TRAPOConfig) -> None:
    """Raise ValueError, before any work, if a model is to be pushed and the hub does not know who asks."""
    if not config.push_to_hub:
        return
    from huggingface_hub import HfApi

    try:
        HfApi().whoami(token=config.hub_token)
    except Exception as error:  # of many kinds: no network, offline mode, no token, a wrong one
        raise ValueError(
            f"push_to_hub: the hub does not take it ({_said(error)}): give a --hub_token, or leave push_to_hub out and "
            "upload the run's final/ later"
        ) from None


def push(config: TRAPOConfig, final: Path, console: Console) -> None:
    """Upload a finished model; what goes wrong is a warning, for the model lies in `final`."""
    if not config.push_to_hub:
        return
    from huggingface_hub import HfApi

    api, name = HfApi(token=config.hub_token), config.hub_model_id or Path(config.output_dir).absolute().name
    try:
        where = api.create_repo(name, private=config.hub_private_repo, exist_ok=True).repo_id
        api.upload_folder(repo_id=where, folder_path=final, commit_message="trapo: trained model")
        console.print(f"Pushed to the hub: {where}", soft_wrap=True)
    except Exception as error:
        said = f"[warning] not pushed to the hub ({_said(error)}): the model is in {final}, hf upload {name} {final}"
        console.print(said, soft_wrap=True)


def _said(error: Exception) -> str:
    return redacted(" ".join(f"{type(error).__name__}: {error}".split()))[:200]
