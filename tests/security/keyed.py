"""Classes of a user's that take secrets, and keep what they got."""

import logging
import warnings
from typing import Any

from jsonargparse.typing import SecretStr

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import TaskInfo
from sft_lightning.data import Digits
from sft_lightning.data.base import Splits
from sft_lightning.networks import MLP

GOT: dict[str, Any] = {}


class KeyedDigits(Digits):
    """Digits that come from a server.

    Args:
        api_key: Key to the server.
        url: Where the server is.
        login: User and password.
        phrase: What no name gives away, and the class declares.
        fails: How it fails when it loads: by a bug, or by what the user gave.
        **kwargs: See Digits.
    """

    def __init__(
        self,
        api_key: str | None = None,
        url: str | None = None,
        login: dict[str, Any] | None = None,
        phrase: SecretStr | None = None,
        fails: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.api_key, self.url, self.login, self.fails = api_key, url, login, fails
        self.phrase = phrase.get_secret_value() if phrase else None

    def load(self) -> Splits:
        GOT.update(api_key=self.api_key, url=self.url, login=self.login)
        if self.phrase is not None:
            GOT["phrase"] = self.phrase
            print("printed:", self.phrase)
        said = f"{self.url} did not take {self.api_key} of {self.login}"
        warnings.warn(f"warned: {said}")
        logging.getLogger("keyed").warning("logged: %s", said)
        print("printed:", said)
        if self.fails == "bug":
            raise RuntimeError(said)
        if self.fails == "user":
            raise UserError("data", said)
        return super().load()


class KeyedMLP(MLP):
    """An MLP that needs a token.

    Args:
        task: What is predicted.
        hub_token: The token.
    """

    def __init__(self, task: TaskInfo, hub_token: str | None = None) -> None:
        super().__init__(task, in_features=64, hidden=[8])
        GOT["hub_token"] = hub_token
