"""What a program in the sandbox can and cannot do. Each attempt is a real program."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from lowbit.research.candidate import process_watch
from lowbit.research.candidate.jail import seatbelt
from lowbit.research.candidate.process_watch import Limits
from lowbit.research.candidate.sandbox import Level, SandboxOutcome, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what Linux can forbid")
LIMITS = Limits(seconds=20, memory=600 * 2**20, processes=12, disk=30 * 2**20, output=20_000)


def attempt(
    tmp_path: Path, code: str, limits: Limits = LIMITS, **options: object
) -> SandboxOutcome:
    folder = tmp_path / "copy"
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(textwrap.dedent(code))
    return run([sys.executable, "-I", "train.py"], folder, limits, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def level(tmp_path_factory: pytest.TempPathFactory) -> Level:
    """The isolation that this machine supports; tests skip what it does not."""
    return attempt(tmp_path_factory.mktemp("level"), "print('hello')").level


def test_an_honest_program_runs_and_is_measured(tmp_path: Path) -> None:
    outcome = attempt(tmp_path, "open('out.txt', 'w').write('kept'); print('hello')")
    assert (outcome.end, outcome.code, outcome.output.strip()) == ("done", 0, "hello")
    assert (tmp_path / "copy" / "out.txt").read_text() == "kept"
    assert 0 < outcome.seconds < 20
    assert attempt(tmp_path, "raise SystemExit(3)").end == "failed"
    assert "ZeroDivisionError" in attempt(tmp_path, "1 / 0").output


def test_ci_has_isolation(level: Level) -> None:
    """In CI the tests below must run, not skip."""
    if os.environ.get("CI") or os.environ.get("LOWBIT_NEEDS_SEALED"):
        assert level.sealed
    if not level.sealed:
        pytest.skip(f"this system cannot seal a run: {level}")


def test_files_outside_the_copy_cannot_be_read(tmp_path: Path, level: Level) -> None:
    if level.files == "none":
        pytest.skip("no file isolation here")
    secret, training = tmp_path / "evaluation.txt", tmp_path / "training.txt"
    secret.write_text("sealed text")
    training.write_text("training text")
    code = f"""
    import os
    print(open({str(training)!r}).read())
    for path in ({str(secret)!r}, "/proc/1/environ", os.path.expanduser("~root/.bash_history")):
        try:
            print("READ", open(path).read())
        except OSError as error:
            print("refused", type(error).__name__)
    """
    outcome = attempt(tmp_path, code, readable=[training])
    assert outcome.output.count("training text") == 1
    assert "sealed text" not in outcome.output
    assert "READ sealed" not in outcome.output


def test_files_outside_the_copy_cannot_be_written(tmp_path: Path, level: Level) -> None:
    if level.files == "none":
        pytest.skip("no file isolation here")
    results = tmp_path / "results.tsv"
    results.write_text("commit\tval_ppl\n")
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "HEAD").write_text("ref: main\n")
    code = f"""
    import os, shutil
    for act in (lambda: open({str(results)!r}, "a").write("x"),
                lambda: os.unlink({str(results)!r}),
                lambda: os.truncate({str(results)!r}, 0),
                lambda: os.rename({str(results)!r}, "stolen"),
                lambda: shutil.rmtree({str(tmp_path / "repository")!r})):
        try:
            act()
            print("DONE")
        except OSError as error:
            print("refused", type(error).__name__)
    """
    outcome = attempt(tmp_path, code)
    assert "DONE" not in outcome.output
    assert results.read_text() == "commit\tval_ppl\n"
    assert (tmp_path / "repository" / "HEAD").exists()


def test_only_the_given_devices_can_be_used(tmp_path: Path, level: Level) -> None:
    if level.files == "none":
        pytest.skip("no file isolation here")
    for name in ("gpu0", "gpuctl", "other"):
        (tmp_path / name).write_text("")
    code = f"""
    for name in ("gpu0", "gpuctl", "other"):
        try:
            open({str(tmp_path)!r} + "/" + name, "r+").write("used")
        except OSError:
            pass
    """
    attempt(tmp_path, code, devices=[str(tmp_path / "gpu*")])
    used = [name for name in ("gpu0", "gpuctl", "other") if (tmp_path / name).read_text()]
    assert used == ["gpu0", "gpuctl"]
    assert "(allow iokit-open" in seatbelt([], [], gpu=True)
    assert "iokit" not in seatbelt([], [])


def test_hidden_memory_is_blocked_without_a_gpu(tmp_path: Path, level: Level) -> None:
    if level.network == "none":
        pytest.skip("no seccomp here")
    code = """
    import ctypes, os
    try:
        os.memfd_create("hidden")
        print("MEMFD")
    except PermissionError:
        print("refused")
    libc = ctypes.CDLL(None, use_errno=True)
    print("SHM" if libc.shmget(0, 1 << 20, 0o1600) >= 0 else "refused")
    """
    assert attempt(tmp_path, code).output.split() == ["refused", "refused"]
    with_gpu = attempt(tmp_path, code, devices=[str(tmp_path / "gpu*")])
    assert "MEMFD" in with_gpu.output, "a GPU's driver may need it"


def test_the_network_cannot_be_reached(tmp_path: Path, level: Level) -> None:
    if level.network == "none":
        pytest.skip("no network isolation here")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"""
        import socket
        for address in (("127.0.0.1", {port}), ("1.1.1.1", 53)):
            try:
                socket.create_connection(address, timeout=2)
                print("CONNECTED")
            except OSError as error:
                print("refused", type(error).__name__)
        """
        outcome = attempt(tmp_path, code)
    assert outcome.output.count("refused") == 2
    assert "CONNECTED" not in outcome.output


def test_a_program_that_ignores_signals_is_killed_at_its_limit(tmp_path: Path) -> None:
    code = """
    import signal, time
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    print("going on", flush=True)
    time.sleep(600)
    """
    began = time.monotonic()
    outcome = attempt(tmp_path, code, Limits(seconds=2))
    assert outcome.end == "timeout"
    assert time.monotonic() - began < 15
    assert "going on" in outcome.output


def test_children_do_not_outlive_their_parent(tmp_path: Path) -> None:
    code = """
    import os, sys, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                open("alive", "a").write(".")
                time.sleep(0.05)
        os._exit(0)
    time.sleep(0.5)
    """
    assert attempt(tmp_path, code).end == "done"
    alive = tmp_path / "copy" / "alive"
    time.sleep(0.3)
    size = alive.stat().st_size
    time.sleep(0.4)
    left = [p for p in psutil.process_iter(["cmdline"]) if "train.py" in (p.info["cmdline"] or [])
            and str(tmp_path) in (p.cwd() if p.is_running() else "")]  # fmt: skip
    if left:
        [p.kill() for p in left]
    level = attempt(tmp_path, "pass").level
    if level.processes != "namespace":
        pytest.skip("without a namespace a double fork escapes; it is then killed by the next look")
    assert alive.stat().st_size == size
    assert not left


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("held = []\nwhile True: held.append(bytearray(20 * 2**20))", {"memory", "failed"}),
        ("import os\nfor i in range(40):\n  if os.fork() == 0:\n    import time; time.sleep(60)\n"
         "import time; time.sleep(60)", {"processes"}),
        ("i = 0\nwhile True:\n  open(f'f{i}', 'wb').write(bytes(2**20)); i += 1", {"disk"}),
        ("import os\nheld = []\nwhile True:\n  held.append(open('f', 'wb')); os.unlink('f')\n"
         "  held[-1].write(bytes(2**20)); held[-1].flush()", {"disk"}),
        ("import mmap, os\nheld = []\nwhile True:\n  file = open('f', 'w+b'); os.unlink('f')\n"
         "  file.write(bytes(2**20)); file.flush()\n"
         "  held.append(mmap.mmap(file.fileno(), 2**20)); file.close()", {"disk"}),
        ("while True: print('x' * 1000)", {"output"}),
    ],
    ids=["memory", "processes", "disk", "nameless files", "mapped files", "output"],
)  # fmt: skip
def test_taking_too_much_ends_the_run(tmp_path: Path, code: str, end: set[str]) -> None:
    limits = Limits(seconds=25, memory=300 * 2**20, processes=12, disk=30 * 2**20, output=20_000)
    outcome = attempt(tmp_path, code, limits)
    assert outcome.end in end
    assert len(outcome.output) <= 20_000


@pytest.mark.parametrize(("printed", "end"), [(20_000, "done"), (20_001, "output")])
def test_too_much_output_is_seen_after_the_program_ended_too(
    tmp_path: Path, printed: int, end: str
) -> None:
    code = f"print('x' * {printed - 1})"
    with (tmp_path / "output").open("w+b") as output:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=output)
        process.wait()
        watched = process_watch.watch(
            process, tmp_path, output, Limits(25.0, output=20_000),
            lambda: 0.0, lambda seconds: None, lambda: False,
        )  # fmt: skip
    assert watched[0] == end


def test_a_descriptor_that_disappears_does_not_hide_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listdir = os.listdir
    monkeypatch.setattr(process_watch.os, "listdir", lambda place: ["999999", *listdir(place)])
    with (tmp_path / "f").open("wb") as file:
        file.write(bytes(3 * 2**20))
        file.flush()
        (tmp_path / "f").unlink()
        assert process_watch._unlinked_size([psutil.Process()]) >= 3 * 2**20


def test_output_that_is_not_utf8_is_stored_as_text(tmp_path: Path) -> None:
    outcome = attempt(tmp_path, "import sys; sys.stdout.buffer.write(b'\\xff\\xfe<script>')")
    assert "<script>" in outcome.output
    assert "\ufffd" in outcome.output


def test_without_isolation_the_level_says_so(tmp_path: Path) -> None:
    outcome = attempt(tmp_path, "print('plain')", isolate=False)
    assert outcome.end == "done"
    assert not outcome.level.sealed
    assert outcome.level == Level()


def test_a_macos_profile_denies_all_but_what_is_listed() -> None:
    profile = seatbelt(["/usr", '/a "quoted" folder'], ["/copy"])
    lines = profile.splitlines()
    assert lines[:2] == ["(version 1)", "(deny default)"]
    assert lines[-1] == "(deny network*)"
    (reads,) = (line for line in lines if line.startswith("(allow file-read* "))
    (writes,) = (line for line in lines if line.startswith("(allow file-write*"))
    assert '(subpath "/a \\"quoted\\" folder")' in reads
    assert '(subpath "/usr")' not in writes
    assert '(subpath "/copy")' in writes
    assert profile.count("(") == profile.count(")")


def test_two_runs_share_no_memory(tmp_path: Path, level: Level) -> None:
    if level.processes == "group":
        pytest.skip("no namespaces here")
    code = """
    import os
    path = "/dev/shm/lowbit-kept-for-later"
    print("found" if os.path.exists(path) else "nothing")
    try:
        open(path, "w").write("weights")
    except OSError:
        print("refused")
    """
    outputs = [attempt(tmp_path, code).output for _ in range(2)]
    assert outputs[0].startswith("nothing")
    assert outputs[1].startswith("nothing")
    assert not Path("/dev/shm/lowbit-kept-for-later").exists()


def test_unix_sockets_are_blocked(tmp_path: Path, level: Level) -> None:
    if level.network != "namespace":
        pytest.skip("sockets of this machine are not closed here")
    path = tmp_path / "bus"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        code = f"""
        import socket
        try:
            socket.socket(socket.AF_UNIX).connect({str(path)!r})
            print("connected")
        except OSError as error:
            print(type(error).__name__)
        one, two = socket.socketpair()
        one.send(b"pairs stay"); print(two.recv(20).decode())
        """
        outcome = attempt(tmp_path, code)
    assert outcome.output.split("\n")[:2] == ["PermissionError", "pairs stay"]


@pytest.mark.parametrize(
    "code",
    [
        "import shutil; shutil.rmtree('tmp'); print('gone')",
        "import os; os.mkfifo('tmp/output.txt'); print('gone')",
        "import os; [os.unlink(f'tmp/{n}') for n in os.listdir('tmp')]; print('gone')",
        "import os; os.symlink('/etc/passwd', 'tmp/output.txt'); print('gone')",
    ],
)
def test_a_program_cannot_replace_its_output(tmp_path: Path, code: str) -> None:
    outcome = attempt(tmp_path, code)
    assert (outcome.end, outcome.output) == ("done", "gone\n")


def test_a_cancelled_run_ends_at_once(tmp_path: Path) -> None:
    outcome = attempt(tmp_path, "import time; time.sleep(60)", cancelled=lambda: True)
    assert outcome.end == "cancelled"
    assert outcome.seconds < 20
