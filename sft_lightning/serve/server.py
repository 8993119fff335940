"""Runs the service on a socket until a signal asks it to stop."""

import logging
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from sft_lightning.core.errors import UserError
from sft_lightning.core.signals import SIGNALS
from sft_lightning.serve.answering import Model
from sft_lightning.serve.app import Limits, Service

STOPS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """A server that ends normally after a signal: uvicorn's own raises the signal again.

    Args:
        config: Its settings.
        said: Printed once signals are handled.
    """

    def __init__(self, config: uvicorn.Config, said: str = "") -> None:
        super().__init__(config)
        self.said = said

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with SIGNALS.given_to(self.handle_exit, STOPS):
            print(self.said, flush=True)
            yield


def listen(host: str, port: int) -> socket.socket:
    """A socket on this address. Raises UserError if it is taken, or is not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UserError("--host", f"{host} cannot be used: {error}", "use 127.0.0.1") from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(2048)
    except OSError as error:
        made.close()
        raise UserError(
            "--port", f"{host} port {port} cannot be used: {error.strerror}", "choose another one"
        ) from None
    return made


def serve(place: str | Path, host: str, port: int, limits: Limits, half: bool = False) -> None:
    """Serves a run or an export, in bfloat16 with `half`, until SIGINT or SIGTERM, and then answers what it has begun to.

    Raises:
        UserError: The address is taken, or the model cannot be served.
    """
    bound = listen(host, port)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # else bad forms fill the log
    warnings.filterwarnings("ignore", module="PIL")  # likewise damaged images; the service limits their size itself
    shown = f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"

    def load() -> Model:
        return Model.load(place, half)

    def ended() -> None:
        server.should_exit = True

    service = Service(load, limits, ended)
    config = uvicorn.Config(
        service.app,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=int(limits.timeout_s) + 5,
    )
    server = Server(config, f"serve   {shown} loads {place}")
    watch = threading.Thread(target=announce, args=(service, place, shown), daemon=True)
    watch.start()
    with bound:
        server.run(sockets=[bound])
    service.batcher.stop()
    if service.batcher.error is not None:
        raise service.batcher.error
    print("serve   stopped", flush=True)


def announce(service: Service, place: str | Path, shown: str) -> None:
    """Prints once that the model is ready."""
    service.batcher.settled.wait()
    if service.batcher.model is None:
        return
    about = service.ready().about()
    heads = " and ".join(f"{name}: {head['task']}" for name, head in about["heads"].items())
    print(f"serve   {shown} is ready for {about['takes']} ({heads})", flush=True)
