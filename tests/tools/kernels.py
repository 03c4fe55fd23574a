"""Kernels for notebooks, each a fork of one process that has loaded what most of them need.

Each is a real kernel in a process of its own. Loading takes most of its time and is done once.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any


class Kernels:
    """The process that has loaded it all. It ends with this one, and its kernels with it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # where a kernel greets
            text=True,
        )

    def launch(self, command: list[str], cwd: str, **_: Any) -> "Kernel":
        """In place of ``jupyter_client.launcher.launch_kernel``."""
        assert command[1:3] == ["-m", "ipykernel_launcher"]
        print(json.dumps([command[3:], cwd]), file=self.process.stdin, flush=True)
        return Kernel(int(self.process.stdout.readline()))

    def end(self) -> None:
        with self.process:
            self.process.kill()


class Kernel:
    """What ``jupyter_client`` uses of a ``subprocess.Popen``."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0
        return None

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.01)
        return 0

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    terminate = kill


def serve() -> None:
    """Fork a kernel for each line that comes: the arguments and the folder it is to run in."""
    import matplotlib.backends.backend_agg
    import matplotlib.pyplot  # noqa: F401
    import torch
    import torch._dynamo  # noqa: F401  # what checkpoint loads, and much of the rest of torch
    import torch.fx.experimental.symbolic_shapes  # noqa: F401  # what backward(gradient) loads
    from ipykernel.kernelapp import IPKernelApp

    from companion import draw

    assert draw(torch.ones((), requires_grad=True)).svg  # loads Graphviz
    gc.freeze()  # no kernel looks for garbage among all that
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system buries what has ended
    for line in sys.stdin:
        arguments, folder = json.loads(line)
        if pid := os.fork():
            os.setpgid(pid, pid)  # jupyter_client ends a kernel with its whole group
            print(pid, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(2, 1)
        os.chdir(folder)
        os.environ["JPY_PARENT_PID"] = str(os.getppid())  # with whose end the kernel ends
        IPKernelApp.launch_instance(arguments)
        os._exit(0)


if __name__ == "__main__":
    serve()
