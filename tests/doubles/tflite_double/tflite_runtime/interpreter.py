"""y = 2 x, four float32 values. A model is TFL3's header, then JSON: what goes wrong, and where.

``load``, ``invoke``: the name of an exception and its text. ``good``: the runs before that of
``invoke`` fails. ``sleep_s``: how long a run takes. ``values``: how many instead of four; if there
are many, y = x, without a copy.
"""

from __future__ import annotations

import builtins
import json
import time

import numpy

HEADER = b"\x1c\0\0\0TFL3"


class Interpreter:
    def __init__(self, model_content: bytes, num_threads: int) -> None:
        self.threads = num_threads
        self.faults = json.loads(model_content[len(HEADER) :])
        self.runs = 0

    def allocate_tensors(self) -> None:
        self._fail("load")

    def _fail(self, place: str) -> None:
        if place in self.faults:
            name, text = self.faults[place]
            raise getattr(builtins, name)(text)

    def get_input_details(self) -> list[dict]:
        count = self.faults.get("values", 4)
        return [{"index": 0, "dtype": numpy.float32, "shape": numpy.array([count])}]

    get_output_details = get_input_details

    def set_tensor(self, index: int, value: numpy.ndarray) -> None:
        self.value = 2 * value if self.faults.get("values", 4) < 100 else value

    def invoke(self) -> None:
        self.runs += 1
        time.sleep(self.faults.get("sleep_s", 0))
        if self.runs == self.faults.get("good", 0) + 1:
            self._fail("invoke")

    def get_tensor(self, index: int) -> numpy.ndarray:
        return self.value
