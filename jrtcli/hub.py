"""Files of the Hugging Face hub: fetched through huggingface_hub, or found in its cache without a network.

HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN and the progress switches are huggingface_hub's own; nothing
here reads them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from jrtcli.errors import CheckpointError

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_repo_id(text: str) -> bool:
    """Whether `text` has the form of a hub id, `org/name`."""
    return _REPO_ID.fullmatch(text) is not None


def snapshot(repo_id: str, patterns: Sequence[str], *, revision: str | None = None) -> Path:
    """The folder with those files of a repository that match `patterns`, downloaded where necessary.

    Raises CheckpointError, in one line, for a repository that does not exist, is gated, or is neither
    reachable nor in the cache.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(patterns)))
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{repo_id} is gated on the hub: accept its terms at https://huggingface.co/{repo_id}, "
            "then run `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{repo_id} has no revision {revision!r} on the hub") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the hub has no repository {repo_id}, or it is private (then run `hf auth login`); "
            "`jrt models` lists known checkpoints"
        ) from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"{repo_id!r} is not a hub id of the form org/name") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        at = f" --revision {revision}" if revision else ""
        why = "HF_HUB_OFFLINE is set" if _offline() else "the hub cannot be reached"
        raise CheckpointError(
            f"{repo_id} is not in the cache of this machine and {why}: run `hf download {repo_id}{at}` "
            "where there is a network, or give a local copy with --model FOLDER"
        ) from error
    except Exception as error:
        # HTTP errors, full disks, a broken cache: huggingface_hub raises errors of several libraries.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CheckpointError(f"{repo_id} could not be fetched from the hub: {reason}") from error


def cached_file(repo_id: str, filename: str, *, revision: str | None = None) -> Path | None:
    """A file of a repository where the cache has it, else None. Never uses the network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo_id, filename, revision=revision)
    return Path(found) if isinstance(found, str) else None


def commit_of(folder: Path) -> str | None:
    """The commit of a snapshot folder of the cache, whose name it is; None for any other folder."""
    return folder.name if _COMMIT.fullmatch(folder.name) else None


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
