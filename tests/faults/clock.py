"""Clocks that are set while processes run: of the workers, and of the database."""

import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


class NoClock(RuntimeError):
    """There is no compiler to build the preloaded library with."""


class Clock:
    """The time of day that some processes read."""

    def __init__(self, folder: Path, name: str) -> None:
        """Build the library in `folder`, once; raises NoClock."""
        self._file, library = folder / f"{name}.shift", folder / "clock.so"
        self.set(0)
        if not library.exists():
            if (compiler := shutil.which("cc")) is None:
                raise NoClock("stepping a clock needs a C compiler (`cc`)")
            subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(self._file)}

    def set(self, shift_s: float) -> None:
        """Set the clock to the true time and so much; in one write, into the file that the processes have mapped."""
        with self._file.open("r+b" if self._file.exists() else "wb", buffering=0) as file:
            file.write(struct.pack("q", int(shift_s * 1e6)))
