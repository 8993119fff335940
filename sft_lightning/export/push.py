"""Uploads an export to a hub."""

from pathlib import Path

from sft_lightning.core import redaction
from sft_lightning.core.errors import UserError, one_line


def check_push(name: str) -> None:
    """Raises UserError for a name or a machine that cannot push, before anything is exported."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(
            "--push", f"'{name}' is not a repository's name: {error}", "write it as in me/my-model"
        ) from None
    if constants.HF_HUB_OFFLINE:
        raise UserError("--push", "HF_HUB_OFFLINE is set", "unset it, or leave out --push")
    if get_token() is None:
        raise UserError("--push", "there is no token for the hub", "log in by hf auth login, or set HF_TOKEN")


def push(folder: Path, name: str) -> str:
    """Uploads a folder as one commit to a repository, which is made, private, if it is not there. Returns its address.

    Raises:
        UserError: The hub refuses, or cannot be reached. The folder stays.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(library_name="sft_lightning")
    try:
        repository = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repository.repo_id, folder_path=folder, commit_message="Export of a run of sft_lightning"
        )
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        said = redaction.redact(one_line(str(error)))[:300]
        raise UserError("--push", f"{name}: {said}", f"the export is in {folder}: push it by hf upload") from None
    return str(repository)
