"""Energy that GPUs take, by the counter that NVIDIA's driver keeps of each.

The counter is the whole GPU's: of jobs that share one, each counts what the others take too.
"""

from collections.abc import Callable, Iterable

from retrotune.runtime.devices import gpu_uuid
from retrotune.runtime.log import logger


class EnergyMeter:
    """Joules that some GPUs have taken since the meter was made.

    `numbers` are torch's. The driver numbers all GPUs of the computer, torch those that `CUDA_VISIBLE_DEVICES` leaves
    in sight, in an order of its own; so they are found by their UUIDs. What is not measured is no error: `joules` is
    None without GPUs, without the package nvidia-ml-py, and where a GPU has no counter (before Volta); the log says
    why, unless there are no GPUs.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._counter: Callable[[], int] | None = None
        self._start = 0
        chosen = list(numbers)
        if not chosen:
            return
        try:
            self._counter = _counter(chosen)
            self._start = self._counter()
        except Exception as error:  # the library has its own exceptions, of each version and driver
            self._give_up(error)

    @property
    def joules(self) -> float | None:
        """Joules of all these GPUs so far; None: not measured."""
        if self._counter is None:
            return None
        try:
            taken = self._counter() - self._start
        except Exception as error:  # as above: a GPU may be lost
            self._give_up(error)
            return None
        if taken < 0:
            self._give_up("the driver was loaded anew")
            return None
        return taken / 1000

    def _give_up(self, why: object) -> None:
        self._counter = None
        logger.info("energy is not measured: %s", why)


def _counter(numbers: Iterable[int]) -> Callable[[], int]:
    """Reads the millijoules that these GPUs have taken since the driver was loaded."""
    import pynvml

    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByUUID(gpu_uuid(number)) for number in numbers]
    return lambda: sum(int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) for handle in handles)
