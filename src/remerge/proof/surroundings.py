"""Two machines as unlike each other, and unlike this one, as one machine can be made to look.

What reproducible-builds vary, and what is known to decide bits in numerical work: the processor
that code is compiled for, the number of threads, the code path of libraries. What cannot be varied
here is said, with the reason, and never left out in silence.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_SOMEBODY = 1000
_ANOTHER_DAY = "2031-02-28 23:59:30"


@dataclass(frozen=True)
class Surroundings:
    """Where and how a rebuild runs.

    name       of the rebuild
    parent     folder in which the clone is made
    folder     name of the clone, awkward on purpose
    umask
    variables  set for the build, in place of all but a few of ours
    prefix     command in front of the build's
    varied     what is different from here: what, and how
    fixed      what could not be varied: what, and why
    """

    name: str
    parent: Path
    folder: str
    umask: int
    variables: Mapping[str, str]
    prefix: tuple[str, ...] = ()
    varied: tuple[tuple[str, str], ...] = ()
    fixed: tuple[tuple[str, str], ...] = ()

    @property
    def place(self) -> Path:
        """The clone."""
        return self.parent / self.folder

    @property
    def key(self) -> str:
        """One word of the name, for files."""
        return self.name.split()[1]


@dataclass
class _Sheet:
    """Variations as they are found possible."""

    variables: dict[str, str] = field(default_factory=dict)
    prefix: list[str] = field(default_factory=list)
    varied: list[tuple[str, str]] = field(default_factory=list)
    fixed: list[tuple[str, str]] = field(default_factory=list)

    def set(self, what: str, **variables: str) -> None:
        self.variables |= variables
        self.varied.append((what, ", ".join(f"{k}={v}" for k, v in variables.items())))


def plain_machine(work: Path) -> Surroundings:
    """One slow core, no vector extensions, an odd place on the disk. Makes the folder `work`."""
    sheet = _Sheet()
    work.mkdir(parents=True, exist_ok=True)
    sheet.varied.append(("path", "a/second place, größer"))
    sheet.varied.append(("umask", "077"))
    _home(sheet, work / "home-1")
    # The one locale in which letters beyond ASCII are no letters at all.
    _speak(sheet, "C", None)
    sheet.set("time zone", TZ="Asia/Kathmandu")
    sheet.set("hash seed", PYTHONHASHSEED="7")
    sheet.set("processor of compiled kernels", NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    sheet.set("threads", NUMBA_NUM_THREADS="1", OMP_NUM_THREADS="1", REMERGE_THREADS="1")
    sheet.set("code path of torch", ATEN_CPU_CAPABILITY="default")
    cores = os.sched_getaffinity(0)
    first = str(min(cores))
    if len(cores) == 1:
        sheet.fixed.append(("cores", "there is one here"))
    else:
        _use(sheet, "cores", f"core {first} alone", ["taskset", "--cpu-list", first], work)
    return Surroundings(
        "a plain machine",
        work,
        "a/second place, größer",
        0o077,
        sheet.variables,
        tuple(sheet.prefix),
        varied=tuple(sheet.varied),
        fixed=tuple(sheet.fixed),
    )


def strange_machine(work: Path, needed_bytes: int) -> Surroundings:
    """Another user, another file system, another day, more threads than cores.

    Makes a folder in memory if 2 · `needed_bytes` fit there: `parent` of the result.
    """
    sheet = _Sheet()
    parent = work
    memory = Path("/dev/shm")  # noqa: S108
    if memory.is_dir() and os.access(memory, os.W_OK) and _free(memory) > 2 * needed_bytes:
        parent = memory / f"remerge-{os.getpid()}"
        sheet.varied.append(("path", f"{memory}/…/x"))
        sheet.varied.append(("file system", "in memory (tmpfs)"))
    else:
        sheet.varied.append(("path", "x"))
        sheet.fixed.append(("file system", f"{memory} has no room for {needed_bytes} bytes"))
    try:
        return _dressed_strangely(sheet, parent)
    except BaseException:
        if parent != work:
            shutil.rmtree(parent, ignore_errors=True)
        raise


def _dressed_strangely(sheet: _Sheet, parent: Path) -> Surroundings:
    parent.mkdir(parents=True, exist_ok=True)
    parent.chmod(0o755)
    sheet.varied.append(("umask", "002"))
    _home(sheet, parent / "home-2")
    _speak(sheet, *_foreign_locale(parent / "home-2" / "locales"))
    sheet.set("time zone", TZ="Pacific/Kiritimati")
    sheet.set("hash seed", PYTHONHASHSEED="4294967295")
    many = str(2 * len(os.sched_getaffinity(0)) + 1)
    sheet.set("threads", NUMBA_NUM_THREADS=many, OMP_NUM_THREADS=many, REMERGE_THREADS=many)
    sheet.set("columns and colours", COLUMNS="40", NO_COLOR="1", TERM="dumb")
    sheet.variables |= {"USER": "somebody", "LOGNAME": "somebody"}
    _use(sheet, "user and host", f"user {_SOMEBODY}, host strange", _somebody_elsewhere(), parent)
    _use(sheet, "clock", f"from {_ANOTHER_DAY} on", ["faketime", _ANOTHER_DAY], parent)
    return Surroundings(
        "a strange machine",
        parent,
        "x",
        0o002,
        sheet.variables,
        tuple(sheet.prefix),
        tuple(sheet.varied),
        tuple(sheet.fixed),
    )


def _home(sheet: _Sheet, home: Path) -> None:
    """An empty home, and no settings of git, DVC or the user from anywhere else."""
    empty = str(home)
    sheet.variables |= {
        "HOME": empty,
        "XDG_CACHE_HOME": f"{empty}/cache",
        "XDG_CONFIG_HOME": f"{empty}/config",
        "TMPDIR": f"{empty}/tmp",  # noqa: S108
        "NUMBA_CACHE_DIR": f"{empty}/numba",
        "DVC_GLOBAL_CONFIG_DIR": f"{empty}/dvc",
        "DVC_SYSTEM_CONFIG_DIR": f"{empty}/dvc",
        "DVC_SITE_CACHE_DIR": f"{empty}/dvc-site",
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    sheet.varied.append(("home, temporary files, caches", "empty folders of its own"))


def _use(sheet: _Sheet, what: str, how: str, command: list[str], place: Path) -> bool:
    """Put `command` in front of the build if it can run our Python there; say so if it cannot."""
    if shutil.which(command[0]) is None:
        sheet.fixed.append((what, f"{command[0]} is not installed"))
        return False
    # Once more from within: a stage is a program that was started by one that was started so.
    script = (
        "import subprocess, sys; "
        "subprocess.run([sys.executable, '-P', '-c', sys.argv[1]], check=True)"
    )
    inner = f"import os, numba; os.listdir({str(place)!r})"
    probe = [*sheet.prefix, *command, sys.executable, "-P", "-c", script, inner]
    done = subprocess.run(probe, check=False, capture_output=True, text=True, cwd="/")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it fails"])[-1]
        sheet.fixed.append((what, f"{command[0]}: {reason}"))
        return False
    sheet.prefix += command
    sheet.varied.append((what, how))
    return True


def _somebody_elsewhere() -> list[str]:
    """Namespaces of our own: the files stay ours, but neither user nor host has its number or name.

    For root this also means that files of mode 0444 are no longer writable.
    """
    script = (
        "hostname strange && "
        f'exec unshare --user --map-user={_SOMEBODY} --map-group={_SOMEBODY} "$@"'
    )
    return ["unshare", "--user", "--map-root-user", "--uts", "sh", "-c", script, "sh"]


def _speak(sheet: _Sheet, name: str, folder: Path | None) -> None:
    """Set a locale, from a folder of its own if it is not installed; say so if it is ours."""
    here = _locale_here()
    sheet.variables |= {"LC_ALL": name, "LANG": name} | ({"LOCPATH": str(folder)} if folder else {})
    if here == name:
        sheet.fixed.append(("locale", f"it is {name} here, and no other can be had"))
    else:
        sheet.varied.append(("locale", f"LC_ALL={name} for {here}"))


def _locale_here() -> str:
    """What the C library makes of our variables: a name that is not installed counts as C."""
    wanted = next((v for n in ("LC_ALL", "LC_CTYPE", "LANG") if (v := os.environ.get(n))), "C")
    installed = {_plain(name): name for name in _installed_locales()}
    return "C" if wanted == "POSIX" else installed.get(_plain(wanted), "C")


def _plain(locale: str) -> str:
    return locale.replace("-", "").lower()


def _installed_locales() -> list[str]:
    done = subprocess.run(["locale", "-a"], check=False, capture_output=True, text=True)
    return ["C", *done.stdout.split()]


def _foreign_locale(folder: Path) -> tuple[str, Path | None]:
    """A locale whose letters (i and İ) and decimal comma differ from English, made if need be."""
    have = _installed_locales()
    for language in ("tr_TR", "de_DE", "fr_FR"):
        for name in have:
            if name.startswith(language) and _plain(name).endswith("utf8"):
                return name, None
    if shutil.which("localedef"):
        folder.mkdir(parents=True, exist_ok=True)
        name = "tr_TR.UTF-8"
        make = ["localedef", "-i", "tr_TR", "-f", "UTF-8", str(folder / name)]
        subprocess.run(make, check=False, capture_output=True)
        comma = "import locale as l, sys; l.setlocale(l.LC_ALL, sys.argv[1]); "
        comma += "sys.exit(l.localeconv()['decimal_point'] != ',')"
        variables = os.environ | {"LOCPATH": str(folder)}
        test = [sys.executable, "-P", "-c", comma, name]
        done = subprocess.run(test, env=variables, check=False, capture_output=True)
        if done.returncode == 0:
            return name, folder
        shutil.rmtree(folder, ignore_errors=True)
    return next((name for name in have if _plain(name) == "c.utf8"), "C"), None


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
