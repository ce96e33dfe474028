"""The Hugging Face Hub: a folder becomes a repository's files in one commit, all of them or none."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from compressctl.core.errors import MachineError, MissingDependencyError, UsageError, in_short
from compressctl.publish.card import About
from compressctl.publish.folder import prepare

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def check_name(repo: str) -> str:
    """Raises UsageError for what is no `owner/name`."""
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise UsageError(f"{repo!r} is no repository of the Hub", hint="write owner/name, as in my-team/resnet-int8")
    return repo


def publish_run(
    run: Path,
    repo: str,
    about: About,
    dry_run: Path | None = None,
    *,
    backend: str | None = None,
    private: bool = False,
    missed: bool = False,
) -> str:
    """Prepare a run's folder and send it; the commit's address. dry_run: where it is written instead, which is then returned.

    Raises what prepare and upload do.
    """
    if dry_run is not None:
        if dry_run.exists() and not dry_run.is_dir():
            raise UsageError(f"{dry_run} is no folder", hint="name a new or empty one")
        prepare(run, dry_run, about, backend, missed=missed)
        return str(dry_run)
    with tempfile.TemporaryDirectory() as folder:
        prepare(run, Path(folder), about, backend, missed=missed)
        return upload(Path(folder), repo, private=private, message=f"Compressed by compressctl: {about.name}")


def upload(folder: Path, repo: str, *, private: bool, message: str) -> str:
    """The commit's address. The token is the one of `hf auth login`, or of HF_TOKEN.

    Raises MissingDependencyError; UsageError for rights and names; MachineError for what may pass by itself.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
    except ModuleNotFoundError as error:
        raise MissingDependencyError("publishing", "huggingface_hub", "pip install 'compressctl[hub]'") from error
    try:
        api = HfApi(library_name="compressctl")
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message).commit_url)
    except LocalTokenNotFoundError:
        raise UsageError("no token of the Hub was found", hint="`hf auth login`, or set HF_TOKEN") from None
    except HfHubHTTPError as error:
        raise _refused(error, repo) from error
    except (HFValidationError, ValueError) as error:
        raise UsageError(f"the Hub refuses {repo}: {in_short(error)}") from error
    except Exception as error:  # its client's own errors of connections, whatever library they come from
        raise MachineError(f"the Hub could not be reached: {in_short(error)}", hint="try again later") from error


def _refused(error: Exception, repo: str) -> UsageError | MachineError:
    code = getattr(getattr(error, "response", None), "status_code", 0)
    if code in (401, 403):
        return UsageError(f"the Hub does not let this token write to {repo}", hint="`hf auth login`, or set HF_TOKEN")
    if 400 <= code < 500 and code not in (408, 425, 429):
        return UsageError(f"the Hub refuses {repo}: {in_short(error)}")
    return MachineError(f"the Hub answers {code or 'nothing'}: {in_short(error)}", hint="try again later")
