"""A real Slurm of two nodes on this machine, on ports of loopback and in a folder of its own.

The daemons are Debian's (`make setup-e2e`). Each node has one CPU and 2 GB on paper. A node that
dies is declared down by hand, as a health check does: Slurm itself takes half a minute to notice.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.make.ports import free_port
from tests.make.processes import until

NODES = ("node-a", "node-b")
CONFIGURATION = """\
ClusterName=conveyor
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/completed
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PriorityType=priority/basic
SlurmdTimeout=60
MessageTimeout=5
KillWait=1
ReturnToService=2
NodeName=node-a NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=1 RealMemory=2000
NodeName=node-b NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=1 RealMemory=2000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=node-b MaxTime=INFINITE State=UP
"""


class Slurm:
    """The daemons, and what an administrator does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration = folder / "slurm.conf"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("munge", "state", *NODES):
            (folder / name).mkdir(parents=True)
        (folder / "munge").chmod(0o700)
        key = folder / "munge" / "key"
        key.write_bytes(os.urandom(64))
        key.chmod(0o600)
        self.configuration.write_text(
            CONFIGURATION.format(
                folder=folder,
                host=socket.gethostname().partition(".")[0],
                user=getpass.getuser(),
                port=free_port(),
                first=free_port(),
                second=free_port(),
            ),
            encoding="ascii",
        )

    def start(self) -> None:
        """Start everything, and wait for both nodes."""
        munge = self.folder / "munge"
        places = [f"--{name}-file={munge / name}" for name in ("key", "pid", "log", "seed")]
        self._start("munged", "--foreground", "--force", f"--socket={munge / 'socket'}", *places)
        until((munge / "socket").exists, "munge")
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        until(lambda: self.ask("sinfo", "--noheader", "--format=%D %t") == "2 idle", "two nodes")

    def start_controller(self) -> None:
        """Start slurmctld."""
        self._start("slurmctld", "-D")

    def start_node(self, node: str) -> None:
        """Start slurmd of a node, and let Slurm use it."""
        self._start("slurmd", "-D", "-N", node, name=node)

    def stop_controller(self) -> None:
        """End slurmctld as an update does. One that is killed forgets the last seconds."""
        process = self._running.pop("slurmctld")
        process.terminate()
        process.wait()

    def kill_node(self, node: str) -> None:
        """End a node with all that runs on it, as a power cut does."""
        self._kill(node)
        # All stop before the node is down, and die afterwards: slurmstepd would report the death of
        # its job, as no node does whose power is cut.
        stopped = self._signal({self._mark(), f"SLURMD_NODENAME={node}".encode()}, signal.SIGSTOP)
        self.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _signal(self, variables: set[bytes], number: int) -> list[int]:
        """Signal every process that was started with these variables; their numbers."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    if variables <= set((entry / "environ").read_bytes().split(b"\0")):
                        os.kill(int(entry.name), number)
                        found.append(int(entry.name))
        return found

    def _mark(self) -> bytes:
        return f"SLURM_CONF={self.configuration}".encode()

    def ask(self, *words: str) -> str:
        """Run a command of Slurm; empty where it fails."""
        done = subprocess.run(words, capture_output=True, text=True, env=self.environment())
        return done.stdout.strip()

    def environment(self) -> dict[str, str]:
        """With which commands find this Slurm."""
        return os.environ | {"SLURM_CONF": str(self.configuration)}

    def stop(self) -> None:
        """End everything."""
        self.ask("scancel", "--me", "--signal=KILL", "--full")
        for name in reversed(list(self._running)):
            self._kill(name)
        self._signal({self._mark()}, signal.SIGKILL)  # what waits to report to the controller

    def _start(self, program: str, *words: str, name: str = "") -> None:
        with (self.folder / f"{name or program}.out").open("ab") as output:
            self._running[name or program] = subprocess.Popen(
                (program, *words), stdout=output, stderr=output, env=self.environment()
            )

    def _kill(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait()


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """A running Slurm; the test is skipped where its packages are missing."""
    missing = [name for name in ("slurmctld", "slurmd", "munged") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no Slurm here ({', '.join(missing)}): make setup-e2e")
    made = Slurm(folder)
    made.start()
    try:
        yield made
    finally:
        made.stop()
