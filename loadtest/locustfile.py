"""Locust's entry. `python -m loadtest run` hands it a whole run (--load-spec-file); by hand, with locust's own page or on several machines:

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000 --load-model smollm2-135m-instruct --load-profile chat
    locust -f loadtest/locustfile.py --master --host http://gateway:8000      and on others: --worker --master-host HOST

With locust's page, /load-report shows this kit's report of what was measured so far. Without --load-model: the server's first model.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # locust adds this folder only, and the package is its parent's

import gevent
from locust import LoadTestShape, events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WorkerRunner

from loadtest.collect import Collector
from loadtest.profiles import PROFILES
from loadtest.shapes import users_at
from loadtest.spec import Spec, spec_from_json
from loadtest.target import TargetError, look_at
from loadtest.users import (
    AbuseMix,  # noqa: F401
    ApiUser,
    Canceller,  # noqa: F401
    ChatNonStream,  # noqa: F401
    ChatStream,  # noqa: F401
    Completions,  # noqa: F401
    Dispatcher,  # noqa: F401
    Embeddings,  # noqa: F401
    Image,  # noqa: F401
    Mixed,  # noqa: F401
    MultiTurn,  # noqa: F401
    Probe,  # noqa: F401
    SlowReader,  # noqa: F401
    WontFit,  # noqa: F401
    cast,
    default_spec,
)

WAIT_TRIES, WAIT_S = 60, 2.0
PAST_END_S = 1.0  # the load goes on past the measured window, so that its last moments are like the others


@events.init_command_line_parser.add_listener
def _options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--load-spec", default="", include_in_web_ui=False, help="a whole run as JSON; sent to workers by their master")
    parser.add_argument("--load-spec-file", default="", include_in_web_ui=False, help="a file with it")
    parser.add_argument("--load-rows", default="", include_in_web_ui=False, help="write every request to this file, a JSON object a line")
    parser.add_argument("--load-generators", type=int, default=1, include_in_web_ui=False, help="how many workers share an open loop")
    parser.add_argument("--load-profile", default="chat", choices=list(PROFILES), include_in_web_ui=False, help="what is asked")
    parser.add_argument("--load-model", default="", include_in_web_ui=False, help="the chat model; default: the server's first")
    parser.add_argument("--load-image-model", default="", include_in_web_ui=False, help="the image model; default: the server's first")
    parser.add_argument("--load-api-key-file", default="", include_in_web_ui=False, help="a file with the API key, on every machine")


@events.init.add_listener
def _begin(environment: Environment, web_ui: Any = None, **_: Any) -> None:
    options = environment.parsed_options
    ApiUser.collector = Collector(environment, Path(options.load_rows) if options.load_rows else None)
    if isinstance(environment.runner, WorkerRunner):
        return  # its master sends the options with the first users
    if options.load_spec_file:
        options.load_spec = Path(options.load_spec_file).read_text(encoding="utf8")
    spec = spec_from_json(options.load_spec) if options.load_spec else _asked(options)
    options.load_spec = spec.to_json()
    cast(environment, spec)
    if options.run_time:
        # Locust's own option takes whole seconds only, and its timer may be early by some tenths.
        options.run_time = spec.duration_s + PAST_END_S
    if not spec.open_loop and spec.shape != "constant":
        environment.shape_class = _Shape(spec)
        environment.shape_class.runner = environment.runner
    if web_ui is not None and web_ui.app is not None:
        web_ui.app.add_url_rule("/load-report", "load-report", lambda: _page(spec))


def _asked(options: Any) -> Spec:
    """Options by hand; the server is asked for what they leave open, and waited for: containers start in no order."""
    if not options.host or options.load_model:
        return default_spec(options)
    for attempt in range(WAIT_TRIES):
        try:
            found = look_at(options.host.rstrip("/").removesuffix("/v1"), options.load_api_key_file or None)
            break
        except TargetError as error:
            logging.getLogger(__name__).warning("%s", error)
            if attempt == WAIT_TRIES - 1:
                sys.exit(2)
            gevent.sleep(WAIT_S)
    options.load_model, options.load_image_model = found.chat_model or "", options.load_image_model or found.image_model or ""
    return default_spec(options)


class _Shape(LoadTestShape):
    """A closed loop whose users change with time. Not made by locust itself: it takes no argument there."""

    abstract = True

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self._spec = spec

    def tick(self) -> tuple[int, float] | None:
        spec = self._spec
        users = users_at(spec.shape, max(0.0, self.get_run_time() - PAST_END_S), spec.duration_s, spec.users)
        return None if users is None else (users, float(max(1, spec.users)))


def _page(spec: Spec) -> str:
    from loadtest.report import page
    from loadtest.result import result_of

    return page(result_of(spec, ApiUser.collector.rows))
