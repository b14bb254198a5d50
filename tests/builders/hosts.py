"""Hosts on this machine: a network namespace each, with an address and a name of its own, on one switch.

The switch is a thread here that carries Ethernet frames between TAP devices: it can drop those of a host (a cable that
is unplugged, or a host without power), lose some at random, and delay all. Kernels don't always have netem.
"""

import fcntl
import heapq
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
_MTU = 9000


def impossible() -> str:
    """Reason for which there can be no such hosts on this machine; empty if there can."""
    if missing := [name for name in ("ip", "unshare", "mount") if not shutil.which(name)]:
        return f"{', '.join(missing)} not found (Debian: iproute2, util-linux, mount)"
    try:
        with ExitStack() as stack:
            stack.callback(os.close, _tap(f"frp{os.getpid()}"))
            name = f"fr-probe-{os.getpid()}"
            subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True, text=True)
            subprocess.run(["ip", "netns", "delete", name], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"network namespaces and TAP devices need CAP_NET_ADMIN, CAP_SYS_ADMIN and /dev/net/tun: {error}"
    return ""


class Hosts:
    """Hosts by number, from 0; the host of number n is 10.213.7.{n + 1}, and no other machine is reached."""

    def __init__(self, count: int, folder: Path) -> None:
        self.switch = Switch()
        self._namespaces: list[str] = []
        self._started: list[subprocess.Popen[bytes]] = []
        self._names = folder / "etc_hosts"
        lines = ["127.0.0.1 localhost", *(f"{self.address(host)} {self.name(host)}" for host in range(count))]
        self._names.write_text("\n".join([*lines, ""]))
        for host in range(count):
            namespace, tap = f"fr-{os.getpid()}-{host}", f"fr{os.getpid()}-{host}"
            _ip("netns", "add", namespace)
            self._namespaces.append(namespace)
            self.switch.connect(_tap(tap))
            _ip("link", "set", tap, "netns", namespace, "name", "eth0")
            for command in (
                f"link set eth0 address {_mac(host).hex(':')} mtu {_MTU} up",
                f"addr add {self.address(host)}/24 dev eth0",
                "link set lo up",
            ):
                _ip("-netns", namespace, *command.split())
        self.switch.start()

    @staticmethod
    def address(host: int) -> str:
        return f"10.213.7.{host + 1}"

    @staticmethod
    def name(host: int) -> str:
        """The name that a JobSet `train` gives its pods."""
        return f"train-node-0-{host}.train"

    def start(
        self, host: int, command: Sequence[str], environment: Mapping[str, str], said: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start a command there; its output is appended to a file."""
        # `ip netns exec` gives it mounts of its own: the file of names is replaced for this host alone.
        set_up = 'hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec "$@"'
        inside = ["unshare", "--uts", "sh", "-c", set_up, self.name(host), str(self._names), *command]
        how: dict[str, Any] = {"stdout": said, "stderr": said, "env": {**environment}, "start_new_session": True}
        self._started.append(subprocess.Popen(["ip", "netns", "exec", self._namespaces[host], *inside], **how))
        return self._started[-1]

    def kill(self, host: int) -> None:
        """SIGKILL to all processes of a host, also to those that they start meanwhile."""
        while pids := _ip("netns", "pids", self._namespaces[host]).split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            for process in self._started:
                process.poll()  # or it would stay among them
            time.sleep(0.01)

    def close(self) -> None:
        for host in range(len(self._namespaces)):
            self.kill(host)
        for process in self._started:
            process.wait()
        self.switch.close()
        for namespace in self._namespaces:
            _ip("netns", "delete", namespace)


class Switch(threading.Thread):
    """Carries frames from port to port. unplugged: ports whose frames are dropped. loss: share of frames that are lost,
    drawn by a generator of its own. delay: of each frame [seconds]. lost: number of frames lost so far."""

    def __init__(self) -> None:
        super().__init__(name="switch", daemon=True)
        self.unplugged: set[int] = set()
        self.loss = self.delay = 0.0
        self.lost = self.carried = 0
        self._ports: list[int] = []
        self._waiting: list[tuple[float, int, int, bytes]] = []  # due, order, port, frame
        self._random, self._over = random.Random(0), threading.Event()

    def connect(self, tap: int) -> None:
        """Let the device of a file descriptor be the next port; it is closed with the switch."""
        self._ports.append(tap)

    def close(self) -> None:
        self._over.set()
        self.join()
        for tap in self._ports:
            os.close(tap)

    def run(self) -> None:
        poll = select.poll()
        for tap in self._ports:
            poll.register(tap, select.POLLIN)
        while not self._over.is_set():
            wait = min(0.1, max(0.0, self._waiting[0][0] - time.monotonic())) if self._waiting else 0.1
            for tap, _ in poll.poll(wait * 1000):
                self._take(self._ports.index(tap), os.read(tap, 1 << 16))
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                _, _, port, frame = heapq.heappop(self._waiting)
                with suppress(OSError):  # its host is going
                    os.write(self._ports[port], frame)

    def _take(self, source: int, frame: bytes) -> None:
        to_all = frame[0] & 1
        ports = [port for port in range(len(self._ports)) if port != source and (to_all or frame[:6] == _mac(port))]
        for port in ports:
            if self._random.random() < self.loss or {source, port} & self.unplugged:
                self.lost += 1
                continue
            self.carried += 1
            heapq.heappush(self._waiting, (time.monotonic() + self.delay, self.carried, port, frame))


def _tap(name: str) -> int:
    """Create a TAP device; it goes when the file descriptor is closed."""
    tap = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    except OSError:
        os.close(tap)
        raise
    return tap


def _mac(port: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, port + 1])  # locally administered


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout
